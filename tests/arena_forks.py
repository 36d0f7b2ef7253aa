"""Arena servers that start at once: a process that has imported everything forks each of them.

Reads a JSON object a line: {"api_url", "database", "logs"}; a server begins for each, and writes
{"pid", "port"}.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    import gradio

    import fastchat.web.battle
    import fastchat.web.board_tab
    import fastchat.web.chat
    from fastchat.web.arena import ArenaSettings

    assert gradio and fastchat.web.battle
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    assert ArenaSettings
    print("ready", flush=True)
    for line in sys.stdin:
        if os.fork() == 0:
            serve(json.loads(line))
            os._exit(0)


def serve(wanted: dict[str, str]) -> None:
    from fastchat.serve import asgi
    from fastchat.settings import ServerSettings
    from fastchat.web.app import PageSettings
    from fastchat.web.arena import ArenaSettings, build_arena
    from fastchat.web.models import Source

    settings = ArenaSettings(
        page=PageSettings(source=Source(api_url=wanted["api_url"])),
        database_url=wanted["database"],
        log_folder=Path(wanted["logs"]),
        votes_per_minute=0,
    )
    sockets = asgi.bind("127.0.0.1", 0)
    about = {"pid": os.getpid(), "port": sockets[0].getsockname()[1]}

    async def run() -> None:
        app = build_arena(settings)
        print(json.dumps(about), flush=True)
        await asgi.serve_sockets(app, ServerSettings(), sockets=sockets, closing=app.end_streams)

    asyncio.run(run())


if __name__ == "__main__":
    main()
