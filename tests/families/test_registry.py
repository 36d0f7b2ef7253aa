import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError, UsageError
from fastchat.families.registry import NEUTRAL_TEMPLATE, Card, Registry, registry
from fastchat.message import Message
from fastchat.template import Template

PROBES = [
    line.split("\t")
    for line in (Path(__file__).parent.parent / "vectors" / "families.tsv")
    .read_text("utf-8")
    .splitlines()
]
"""Model path, family, and template; the latter is empty for an adapter whose base is unknown."""

# Where the longest pattern decides otherwise than the published order of registration did.
DECIDED = {
    "chinese-alpaca-2-7b": ("chinese-alpaca", "chinese-alpaca2"),
    "chinese-alpaca-2-13b": ("chinese-alpaca", "chinese-alpaca2"),
    "h2ogpt-gm-oasst1-en-2048-open-llama-7b": ("h2ogpt", "h2ogpt"),
    "h2ogpt-gm-oasst1-en-2048-open-llama-7b-preview-300bt-v2": ("h2ogpt", "h2ogpt"),
    "llava-onevision-qwen2-72b-ov": ("llava", "vicuna_v1.1"),
    "llava-onevision-qwen2-72b-ov-chat": ("llava", "vicuna_v1.1"),
}

NEW = """
[template.owl]
system = "{system}|"
user = ["<u>", "</u>"]
assistant = ["<a>", "</a>"]
open = "<a>"

[family.owl]
patterns = ["owl-"]
template = "owl"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one template and one family."""
    (tmp_path / "owl.toml").write_text(NEW)
    return tmp_path


@pytest.fixture
def known() -> Iterator[Registry]:
    """The package's registry, forgotten after the test."""
    registry.cache_clear()
    yield registry()
    registry.cache_clear()


def checkpoint(folder: Path, **config: Any) -> str:
    """A local model that has only a config."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_every_probe_is_recognised() -> None:
    found = [
        [path, recognition.family.name, recognition.template or ""]
        for path, recognition in ((path, registry().recognise(path)) for path, _, _ in PROBES)
    ]
    assert found == PROBES
    assert len(PROBES) == 387


def test_recognition_equals_the_specification(shared: Path) -> None:
    spec = json.loads((shared / "spec" / "model_families.json").read_text("utf-8"))
    ours: dict[str, str] = {}
    for probe in spec["probes"]:
        recognition = registry().recognise(probe["model_path"])
        last = probe["model_path"].rsplit("/", 1)[-1].lower()
        if last in DECIDED:
            assert (recognition.family.name, recognition.template) == DECIDED[last]
            continue
        assert recognition.template == probe["template"], probe
        # One family of ours for each of theirs, and the other way round.
        assert ours.setdefault(probe["family"], recognition.family.name) == recognition.family.name
    assert len(set(ours.values())) == len(ours)
    assert len(registry().families) == len(spec["families"])


def test_templates_equal_the_specification(shared: Path) -> None:
    spec = json.loads((shared / "spec" / "conversation_templates.json").read_text("utf-8"))
    for name, expected in spec["templates"].items():
        template = registry().template(name)
        stop = expected["stop_str"] or []
        published = template.published
        assert (
            published.system_template,
            list(published.roles),
            published.sep_style,
            published.sep,
            published.sep2,
            list(template.stop),
            list(template.stop_token_ids),
            published.max_image_size_mb,
        ) == (
            expected["system_template"],
            expected["roles"],
            expected["sep_style_id"],
            expected["sep"],
            expected["sep2"],
            [stop] if isinstance(stop, str) else stop,
            expected["stop_token_ids"] or [],
            expected["max_image_size_mb"],
        ), name
        if expected["system_message_kind"] == "omitted":
            assert template.system_message
            for hole in expected["placeholders_in_omitted_system_message"]:
                assert hole in template.system_message
        else:
            assert template.system_message == expected["system_message"], name
        has_vision = expected.get("has_separate_vision_system_message", False)
        assert bool(template.system_message_vision) == has_vision
        n_examples = expected.get("offset_upstream", expected["offset"])
        assert 2 * len(template.examples) == n_examples
        if expected["few_shot"]:
            texts = [text for _, text in expected["few_shot"]]
            assert [text for example in template.examples for text in example] == texts


def test_cards_equal_the_specification(shared: Path) -> None:
    spec = json.loads((shared / "spec" / "model_families.json").read_text("utf-8"))
    names = [(name, group) for group in spec["registry"] for name in group["model_names"]]
    assert len(names) == 283
    for name, group in names:
        card = registry().card(name)
        assert (card.name, card.link) == (group["simple_name"], group["link"])
        assert card.description


def test_every_family_and_most_templates_name_their_source() -> None:
    without = {name for name, family in registry().families.items() if not family.source}
    assert without == {"fallback", "no-system"}
    names = registry().template_names
    without = {name for name in names if not registry().template(name).source}
    assert without == {"api_based_default", "raw"}


def test_a_known_name_says_which_pattern_decided() -> None:
    recognition = registry().recognise("org/airoboros-mpt-30b-gpt4-1p4")
    assert recognition.family.name == "airoboros"
    assert recognition.reason == "pattern 'airoboros' in its name"
    assert recognition.is_known


def test_an_unknown_model_is_served_without_a_demonstration() -> None:
    recognition = registry().recognise("facebook/opt-1.3b")
    assert (recognition.is_known, recognition.template) == (False, "one_shot")
    assert recognition.serving_template == NEUTRAL_TEMPLATE
    assert not registry().template(NEUTRAL_TEMPLATE).examples


def test_weights_of_llama_3_1_are_not_prompted_like_the_service() -> None:
    recognition = registry().recognise("meta-llama/Llama-3.1-8B-Instruct")
    assert (recognition.template, recognition.serving_template) == ("meta-llama-3.1", "llama-3")


def test_a_longer_name_tells_the_context() -> None:
    family = registry().recognise("internlm-chat-7b-8k").family
    assert family.context_for("internlm-chat-7b-8k") == 8192
    assert family.context_for("internlm-chat-7b") is None


def test_an_adapter_folder_is_peft_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "vicuna-lora"
    folder.mkdir()
    base = {"base_model_name_or_path": "meta-llama/Llama-2-7b-chat-hf"}
    (folder / "adapter_config.json").write_text(json.dumps(base))
    recognition = registry().recognise(str(folder))
    assert (recognition.family.name, recognition.template) == ("peft", "llama-2")
    assert recognition.checkpoint and recognition.checkpoint.base_path == base.popitem()[1]


def test_an_adapter_over_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b-peft"}')
    with pytest.raises(UsageError, match="'a/b-peft' is a PEFT model itself; merge"):
        registry().recognise(str(tmp_path))


def test_adapters_may_stand_on_adapters_but_not_on_themselves(tmp_path: Path) -> None:
    for name, base in (("one", "two"), ("two", "vicuna-7b"), ("three", "three")):
        (tmp_path / name).mkdir()
        path = str(tmp_path / base) if base != "vicuna-7b" else "lmsys/vicuna-7b"
        config = json.dumps({"base_model_name_or_path": path})
        (tmp_path / name / "adapter_config.json").write_text(config)
    assert registry().recognise(str(tmp_path / "one")).template == "vicuna_v1.1"
    with pytest.raises(DataError, match="names itself as its base"):
        registry().recognise(str(tmp_path / "three"))


@pytest.mark.parametrize("name", ["", "/", "~nobody-of-that-name/x", "x" * 5000, "a\0b", "../.."])
def test_odd_names_are_no_error(name: str) -> None:
    assert registry().recognise(name).serving_template


def test_a_parent_folder_does_not_decide(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "vicuna" / "model-7b", model_type="llama")
    assert not registry().recognise(path).is_known


def test_the_type_of_a_local_checkpoint_contradicts_its_name(tmp_path: Path) -> None:
    guard = checkpoint(tmp_path / "promptguard-7b", model_type="deberta-v2")
    falcon3 = checkpoint(tmp_path / "Falcon3-7B-Instruct", model_type="llama")
    falcon = checkpoint(tmp_path / "falcon-7b", model_type="falcon")
    assert not registry().recognise(guard).is_known
    assert not registry().recognise(falcon3).is_known
    assert registry().recognise(falcon).family.name == "falcon"


def test_the_type_of_a_local_checkpoint_stands_in_for_its_name(tmp_path: Path) -> None:
    recognition = registry().recognise(checkpoint(tmp_path / "mine", model_type="t5"))
    assert recognition.family.loader == "seq2seq"
    assert recognition.reason == "model_type 't5' in its config.json"


def test_local_weights_are_no_remote_service(tmp_path: Path) -> None:
    assert not registry().recognise(checkpoint(tmp_path / "gpt-4", model_type="llama")).is_known


def test_a_local_checkpoint_tells_its_quantization(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    recognition = registry().recognise(checkpoint(tmp_path / "vicuna-7b-gptq", **config))
    assert recognition.checkpoint and recognition.checkpoint.quantization == "gptq"


def test_a_gguf_file_is_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "vicuna-7b.Q8_0.gguf"
    path.write_bytes(b"GGUF")
    for place in (path, tmp_path):
        found = registry().recognise(str(place)).checkpoint
        assert found and found.gguf_path == path
    assert registry().recognise(str(path)).family.name == "vicuna"


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_config_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"config\.json of the model"):
        registry().recognise(str(tmp_path))


def test_a_family_and_a_template_are_added_by_a_file(folder: Path, known: Registry) -> None:
    known.add_folder(folder)
    recognition = known.recognise("org/owl-7b")
    assert recognition.serving_template == "owl"
    messages = [Message(role="system", text="S"), Message(role="user", text="Hu?")]
    assert known.template("owl").prompt(messages) == "S|<u>Hu?</u><a>"
    assert known.recognise("lmsys/vicuna-7b-v1.5").family.name == "vicuna"


def test_a_registry_of_one_folder_knows_nothing_else(folder: Path) -> None:
    alone = Registry(folder)
    assert alone.template_names == ["owl"]
    assert alone.recognise("org/owl-7b").family.name == "owl"
    assert not alone.recognise("lmsys/vicuna-7b").is_known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[family.a]\npaterns = ["a"]', r"x\.toml: family\.a: unknown field 'paterns'"),
        ('[family.a]\npatterns = "a"', r"x\.toml: family\.a\.patterns: 'a' is not of type"),
        ("[family.a]\npatterns = [1]", r"family\.a\.patterns\[0\]: 1 is not of type str"),
        ('[family.a]\npriority = "1"', r"family\.a\.priority: '1' is not of type int"),
        ('[family.a]\nloader = "fast"', r"family\.a\.loader: 'fast' is none of 'causal'"),
        ('[family.a]\ntemplate = "b"', "family 'a': there is no template 'b'"),
        ('[template.a]\nuser = ["U: "]', r"template\.a\.user: needs 2 values, has 1"),
        ('[template.a]\nname = "b"', r"template\.a: unknown field 'name'"),
        ("[template.a.published]\nsep = 1", r"template\.a\.published\.sep: 1 is not of type"),
        ("[template.a.published]\nsepp = 1", r"template\.a\.published: unknown field 'sepp'"),
        ('[family.a]\npatterns = ["a[z-a]"]', r"family 'a': 'a\[z-a\]' is not a pattern"),
        ('[family.a]\npatterns = ["*"]', r"family 'a': '\*' is not a pattern"),
        ('[family.a.context]\n"k[" = 1', r"family 'a': 'k\[' is not a pattern"),
        ("[model.a]", r"x\.toml: model\.a: a record is a `template` or a `family`"),
        ("a = 1", r"x\.toml: 'a' stands outside of a table"),
        ("[family]\na = 1", r"x\.toml: family\.a is not a table"),
        ("[family.a", r"x\.toml: Expected ']'"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_field(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        Registry(tmp_path)


def test_a_mistake_in_a_file_changes_nothing(tmp_path: Path, known: Registry) -> None:
    (tmp_path / "a.toml").write_text(NEW)
    (tmp_path / "b.toml").write_text("[family.b]\nwrong = 1")
    with pytest.raises(DataError):
        known.add_folder(tmp_path)
    assert "owl" not in known.template_names


def test_a_name_is_described_once(folder: Path) -> None:
    (folder / "second.toml").write_text(NEW)
    with pytest.raises(DataError, match="'owl' is described twice"):
        Registry(folder)


def test_the_longest_pattern_wins_then_the_priority(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        '[family.ant]\npatterns = ["ant"]\npriority = 1\n'
        '[family.bee]\npatterns = ["bee"]\n'
        '[family.cat]\npatterns = ["bee*chat"]\n'
        '[family.dog]\npatterns = ["=bee-chat"]\n'
    )
    known = Registry(tmp_path)
    names = ("ant-bee", "bee", "ant-bee-xl-chat", "Bee-Chat")
    assert [known.recognise(name).family.name for name in names] == ["ant", "bee", "cat", "dog"]


def test_an_undecided_tie_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        '[family.ant]\npatterns = ["ant"]\n[family.bee]\npatterns = ["bee"]\n'
    )
    known = Registry(tmp_path)
    with pytest.raises(DataError, match=r"'ant-bee' fits family 'ant' .* and 'bee' .* equally"):
        known.recognise("org/ant-bee")
    (tmp_path / "x.toml").write_text(
        '[family.ant]\npatterns = ["ant"]\n[family.bee]\npatterns = ["ant"]\n'
    )
    with pytest.raises(DataError, match="'ant' and 'bee' both have the pattern 'ant'"):
        Registry(tmp_path)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("mlabonne/llama-2-7b-guanaco", "guanaco"),
        ("x/falcon-7b-alpaca", "alpaca"),
        ("x/Mistral-7B-Guanaco", "guanaco"),
        ("x/airoboros-codellama-34b", "airoboros"),
        ("x/alpaca-vicuna-7b", "vicuna"),
        ("x/pythia-vicuna", "vicuna"),
    ],
)
def test_a_tuning_wins_over_its_base_of_equal_length(name: str, family: str) -> None:
    assert registry().recognise(name).family.name == family


def test_a_capital_letter_in_a_pattern_makes_its_case_count() -> None:
    assert registry().recognise("ReaLM-7b").family.name == "realm"
    assert not registry().recognise("realm-7b").is_known


def test_an_unknown_template_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"'vicuna_v1'.*did you mean vicuna_v1\.1.*known temp"):
        registry().template("vicuna_v1")


def test_a_template_is_registered_once(known: Registry) -> None:
    known.add_template(Template(name="owl", user=("U", "")))
    with pytest.raises(UsageError, match="'owl' is registered already"):
        known.add_template(Template(name="owl"))
    known.add_template(Template(name="owl"), override=True)
    assert known.template("owl").user == ("", "")


def test_a_model_without_a_card_is_introduced_by_its_name(known: Registry) -> None:
    assert known.card("my-model").name == "my-model"
    assert known.card("my-model").link == ""
    card = Card(name="Mine", link="https://example.org", description="A model.")
    known.add_card(["my-model", "my-model-2"], card)
    assert known.card("my-model-2") is card


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[card.a]\nname = "A"\nlink = ""\nmodels = ["a"]', "'description' is missing"),
        ('[card.a]\nname = "A"\nlink = ""\ndescription = ""', "models is a list of names"),
        ("[family.a]\n", "a record of this file is a `card`"),
    ],
)
def test_a_mistake_in_the_cards_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cards.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        Registry(tmp_path).card("a")
