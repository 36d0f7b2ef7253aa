import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from scripted_chat import echo_gateway

from fastchat.serve.doors.openapi import OPERATIONS, document
from fastchat.serve.openai_api_server import FORWARDED, Gateway, GatewaySettings

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
EXAMPLES = int(os.environ.get("FASTCHAT_TEST_EXAMPLES", "3"))


async def test_every_route_is_in_the_document_and_nothing_else() -> None:
    gateway = Gateway(GatewaySettings(endpoint=("http://127.0.0.1:9",)))
    doors = {(door.method, door.path) for door in gateway.doors.table.doors}
    forwarded = {("POST", path) for path in FORWARDED}
    own = {
        *(("GET", path) for path in ("/health", "/metrics", "/v1/models")),
        ("GET", "/v1/models/{model_name}"),
        ("POST", "/v1/engines/{model_name}/embeddings"),
        ("POST", "/api/v1/token_check"),
    }
    assert {(o.method, o.path) for o in OPERATIONS} == doors | forwarded | own


def test_every_reference_leads_somewhere() -> None:
    made = document(has_keys=True)
    known = made["components"]["schemas"]
    wanted = {part.split('"')[0] for part in json.dumps(made).split("#/components/schemas/")[1:]}
    assert wanted <= known.keys()
    assert made["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert "security" not in document(has_keys=False)


@pytest.mark.slow
async def test_the_document_and_its_page_are_given() -> None:
    async with echo_gateway(api_keys=("k1",)) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/openapi.json") as reply:
            assert reply.status == 401
        headers = {"x-api-key": "k1"}
        async with session.get(f"{url}/openapi.json", headers=headers) as reply:
            assert "/v1/messages" in (await reply.json())["paths"]
        async with session.get(f"{url}/docs", headers=headers) as reply:
            page = await reply.text()
            assert reply.headers["content-type"].startswith("text/html")
            assert "/v1/batches" in page
            assert "src=" not in page and "href=" not in page


@pytest.mark.slow
async def test_the_server_keeps_to_its_document(tmp_path: Path) -> None:
    """schemathesis: cases at the edges of every schema and random ones, valid and not."""
    place = tmp_path / "openapi.json"
    async with echo_gateway("echo:context=512") as url:
        place.write_text(json.dumps(_with_known(document(has_keys=False), await _made(url))))
        words = [
            *("run", str(place), "--url", url, "--checks", ",".join(CHECKS)),
            *("--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing"),
            *("--seed", "1", "--generation-deterministic"),
            *(
                "--no-color",
                "--suppress-health-check",
                "too_slow",
                "--request-timeout",
                "600",
                "--continue-on-failure",
            ),
        ]
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("schemathesis")), *words),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-12_000:]


async def _made(url: str) -> dict[str, str]:
    """Ids of objects that were made, by their parameter."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
    line["body"] = {"model": "echo", "prompt": "x"}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        file = await client.files.create(file=json.dumps(line).encode(), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        )
        response = await client.responses.create(model="echo", input="x", background=True)
    known = {"file_id": file.id, "batch_id": batch.id, "response_id": response.id}
    return known | {"model_name": "echo"}


def _with_known(made: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """The document with the model and the objects that there are, so that most requests reach
    them."""
    schemas = made["components"]["schemas"]
    for schema in schemas.values():
        if "model" in schema.get("required", ()) and "maxLength" in schema["properties"]["model"]:
            schema["properties"]["model"] = {"type": "string", "enum": ["echo"]}
        elif {"type": "null"} in schema.get("properties", {}).get("model", {}).get("anyOf", ()):
            schema["properties"]["model"] = {"enum": ["echo", None]}
    schemas["BatchRequest"]["properties"]["input_file_id"] = {
        "type": "string",
        "enum": [known["file_id"]],
    }
    for name, path in made["paths"].items():
        for operation in path.values():
            for parameter in operation["parameters"]:
                # The model in the path of the old route is only asked where the body names none.
                if parameter["name"] in known and "/engines/" not in name:
                    parameter["schema"]["enum"] = [known[parameter["name"]]]
    return made


@pytest.mark.slow
async def test_a_fixed_path_wins_over_one_with_a_place() -> None:
    async with echo_gateway() as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/v1/responses/input_tokens") as reply:
            assert (reply.status, reply.headers["allow"]) == (405, "POST")
        async with session.get(f"{url}/v1/embeddings") as reply:
            assert (reply.status, reply.headers["allow"]) == (405, "POST")
        async with session.post(f"{url}/tokenize", json={"prompt": "abc"}) as reply:
            assert (await reply.json())["count"] == 3  # of the only model
