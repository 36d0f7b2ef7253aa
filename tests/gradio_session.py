"""An open page of the web server as a program drives it, and everything the server sent it."""

import json
import secrets
from typing import Any

import httpx
from live import LIMIT_S

BEATS = 12
"""Every 15 s while nothing comes."""


class Session:
    """Calls the page's events by name over the queue that browsers use."""

    def __init__(
        self, page: str, *, session: str = "", cookie: bool = True, **headers: str
    ) -> None:
        self.http = httpx.Client(base_url=page, headers=headers, timeout=LIMIT_S, trust_env=False)
        self.session = session or secrets.token_hex(6)
        self.received: list[str] = []
        """Every byte that came, as text."""
        try:
            if cookie:
                self.received.append(self.http.get("/").text)
            config = self.http.get("/config")
            self.received.append(config.text)
            self.all = config.json()["dependencies"]
        except BaseException:  # a server that dies meanwhile leaves no connection behind
            self.close()
            raise
        self.functions = {function["api_name"]: function for function in self.all}

    def close(self) -> None:
        self.http.close()

    def call(self, name: str, *data: Any) -> list[list[Any]]:
        """What the event sends back, a list for each step; states go as None."""
        self.join(name, *data)
        return self.steps()

    def join(self, name: str, *data: Any) -> None:
        """Begins the event."""
        body = {
            "fn_index": self.functions[name]["id"],
            "session_hash": self.session,
            "data": list(data),
        }
        reply = self.http.post("/gradio_api/queue/join", json=body)
        self.received.append(str(reply.headers) + reply.text)
        reply.raise_for_status()

    def steps(self, *, events: int = 1, succeed: bool = True) -> list[list[Any]]:
        """Everything that the events that run send until so many of them are complete."""
        steps: list[list[Any]] = []
        beats = 0
        query = {"session_hash": self.session}
        with self.http.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                self.received.append(line)
                if not line.startswith("data:"):
                    continue
                event = json.loads(line.removeprefix("data:"))
                beats += event["msg"] == "heartbeat"
                assert beats < BEATS, f"nothing comes any more: {steps}"
                if event["msg"] in ("process_generating", "process_completed"):
                    assert event["success"] == succeed, event
                    steps.append(event["output"].get("data", []))
                events -= event["msg"] == "process_completed"
                if not events:
                    return steps
        raise AssertionError(f"the stream ended before the event: {steps}")

    def follow(self, kind: str) -> list[Any]:
        """What the browser asks for when the phase of a tab has changed: buttons and names."""
        followers = [
            function
            for function in self.all
            if len(function["inputs"]) == 2
            and [target[1] for target in function["targets"]] == ["change"]
            and len(function["outputs"]) > 6
        ]
        function = followers[("anonymous", "named", "direct").index(kind)]
        self.functions["follow"] = function
        return self.call("follow", None, None)[-1]

    @property
    def everything(self) -> str:
        return "\n".join(self.received)

    # The tabs' events, with the arguments that a browser would send.

    def battle(self, text: str) -> list[list[Any]]:
        return self.call("anonymous_send", None, text, 0.7, 1.0, 64)

    def named(self, text: str, a: str, b: str) -> list[list[Any]]:
        return self.call("named_send", None, text, a, b, 0.7, 1.0, 64)

    def direct(self, text: str, model: str) -> list[list[Any]]:
        return self.call("direct_send", None, text, model, 0.7, 1.0, 64)

    def vote(self, choice: str, kind: str = "anonymous") -> str:
        """Votes, and gives the notice."""
        return self.call(f"{kind}_{choice}", None)[-1][-1]
