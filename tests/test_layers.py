"""The shape of the house: who may import whom, as data, read from the imports with `ast`."""

import ast
from pathlib import Path

import pytest

PACKAGE = "fastchat"

# Lowest first. A module may import from its own layer's folder and from what is listed.
KERNEL = [
    "errors",
    "logs",
    "jsonl",
    "settings",
    "message",
    "template",
    "families",
    "conversation",
    "protocol",
]
MAY_IMPORT: dict[str, set[str]] = {name: set(KERNEL[:i]) for i, name in enumerate(KERNEL)} | {
    "model": set(KERNEL),
    "engine": {*KERNEL, "model"},
    "store": set(KERNEL),
    "data": {*KERNEL, "model"},
    "train": {*KERNEL, "model", "data"},
    "eval": {*KERNEL, "model", "engine", "llm_judge"},
    # Ratings from judge votes are the arena's: one Bradley-Terry fit, `arena/rating.py`.
    "llm_judge": {*KERNEL, "model", "engine", "arena"},
    "arena": {*KERNEL, "model", "engine", "store"},
    "serve": {*KERNEL, "model", "engine", "store"},
    "web": {*KERNEL, "arena", "store"},
}
# Commands may use anything below them and their own folder, and the one layer named here.
COMMANDS: dict[str, set[str]] = {
    # From people's votes to training: the only place where data looks into the arena.
    "data/votes_to_pairs.py": {"arena"},
    "data/pair_filters.py": {"arena"},
    # How an SQLite file is opened by several processes is the store's to know.
    "train/teacher_cache.py": {"store"},
    # A judge as a voter: how a model is asked and judged is llm_judge's.
    "arena/simulate.py": {"llm_judge"},
    "arena/judge_bench.py": {"llm_judge"},
    "serve/gradio_web_server.py": {"web"},
    "serve/monitor/add_markdown_info.py": {"arena"},
    "serve/monitor/basic_stats.py": {"arena"},
    "serve/monitor/clean_battle_data.py": {"arena"},
    "serve/monitor/elo_analysis.py": {"arena"},
    "serve/monitor/monitor.py": {"arena", "web"},
    "serve/monitor/forget.py": {"arena", "web"},
    "serve/monitor/monitor_md.py": {"arena"},
    "serve/monitor/release.py": {"arena"},
    "serve/monitor/embedding.py": {"arena"},
    "serve/monitor/topic_clustering.py": {"arena"},
    "serve/monitor/summarize_cluster.py": {"arena", "llm_judge"},
    "serve/monitor/classify/label.py": {"arena", "llm_judge"},
    "serve/monitor/classify/labelling.py": {"arena", "llm_judge"},
    "serve/monitor/classify/runs.py": {"arena", "llm_judge"},
    "serve/monitor/classify/display_score.py": {"arena", "llm_judge"},
    "serve/monitor/criteria_labeling.py": {"arena", "llm_judge"},
    "serve/monitor/tag_openai_moderation.py": {"arena", "llm_judge"},
    "serve/monitor/clean_chat_data.py": {"arena"},
    "serve/monitor/deduplication.py": {"arena"},
    "serve/monitor/inspect_conv.py": {"arena"},
    "serve/monitor/leaderboard_csv_to_html.py": {"arena"},
    "serve/monitor/intersect_conv_file.py": {"arena"},
    "serve/monitor/vote_time_stats.py": {"arena"},
    "serve/monitor/release_file.py": {"arena"},
    "serve/monitor/dataset_release_scripts/steps.py": {"arena"},
    "serve/gradio_web_server_multi.py": {"web"},
    "llm_judge/qa_browser.py": {"serve", "web"},
}

# Modules that must stay light: none of these is imported, even inside a function.
NEVER = {"torch", "gradio", "fastapi", "transformers"}
LIGHT = [
    *(f"{name}.py" for name in KERNEL if name not in ("families", "protocol")),
    "families",
    "protocol",
    "serve/router.py",
    "serve/controller.py",
    "serve/openai_api_server.py",
    "arena/rating.py",
]
# Imported only inside functions, so that `--help` answers at once.
LAZY = {"torch", "transformers", "gradio", "accelerate", "peft", "datasets"}
LAZY_IN = [
    *("engine/base.py", "engine/choose.py", "engine/echo.py", "engine/stopping.py"),
    *("model/load.py", "model/__init__.py"),
    "serve",
    "llm_judge",
]


def modules(root: Path) -> list[Path]:
    return sorted((root / PACKAGE).rglob("*.py"))


def layer_of(path: Path, root: Path) -> str:
    return path.relative_to(root / PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[str]:
    """Dotted names of everything imported below `tree`."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{name.name}" for name in node.names]
    return found


def imports_at_load(path: Path) -> list[str]:
    """Names imported when the module is loaded: outside functions and TYPE_CHECKING blocks."""
    found: list[str] = []
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += imports(ast.Module([node], []))
        else:
            waiting += ast.iter_child_nodes(node)
    return found


@pytest.mark.slow
def test_every_module_imports_only_from_layers_below_it(root: Path) -> None:
    wrong: list[str] = []
    for path in modules(root):
        layer = layer_of(path, root)
        relative = path.relative_to(root / PACKAGE).as_posix()
        if layer == "__init__":
            continue
        assert layer in MAY_IMPORT, f"{relative}: the folder {layer} has no place in the table"
        allowed = MAY_IMPORT[layer] | {layer} | COMMANDS.get(relative, set())
        for name in imports(ast.parse(path.read_text("utf-8"))):
            parts = name.split(".")
            ours = parts[0] == PACKAGE and len(parts) > 1 and parts[1] != "__version__"
            if ours and parts[1] not in allowed:
                wrong.append(f"{relative} imports {name}")
    assert wrong == []


def test_light_modules_never_import_heavy_libraries(root: Path) -> None:
    wrong: list[str] = []
    for entry in LIGHT:
        place = root / PACKAGE / entry
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if path.exists():
                names = imports(ast.parse(path.read_text("utf-8")))
                wrong += [f"{path.name} imports {n}" for n in names if n.split(".")[0] in NEVER]
    assert wrong == []


def test_heavy_libraries_are_imported_only_inside_functions(root: Path) -> None:
    wrong: list[str] = []
    for entry in LAZY_IN:
        place = root / PACKAGE / entry
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if path.exists():
                names = imports_at_load(path)
                wrong += [f"{path.name} imports {n}" for n in names if n.split(".")[0] in LAZY]
    assert wrong == []


@pytest.mark.parametrize("folder", ["serve", "train", "llm_judge", "eval", "data", "serve/monitor"])
def test_no_file_run_by_path_shadows_another_package(root: Path, folder: str) -> None:
    import sys

    taken = set(sys.stdlib_module_names) | LAZY | {"openai", "starlette", "aiohttp", "numpy"}
    names = {path.stem for path in (root / PACKAGE / folder).glob("*.py")}
    assert names & taken == set()


def test_no_second_tree_of_helpers(root: Path) -> None:
    assert [p.name for p in modules(root) if p.name in ("utils.py", "constants.py")] == []
