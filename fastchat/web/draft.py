"""The message box after its question was taken: emptied, if the question still stands in it.

The server knows what it took, but only the browser knows what stands in the box by now: on a busy
machine the reader may be at the next question before the news of the last one has come.
"""

from dataclasses import asdict
from typing import Any

import gradio as gr

from fastchat.web.pane import Draft

EMPTY_IF_TAKEN = """(taken, now) => {
    const text = typeof now === "string" ? now : now?.text ?? "";
    const files = now?.files?.length ?? 0;
    if (!taken || text !== taken.text || files !== taken.files) return [{__type__: "update"}];
    return [typeof now === "string" ? "" : {text: "", files: []}];
}"""


class TakenDraft:
    """Tells the browser which draft was taken; a part of the page that nobody sees."""

    def __init__(self) -> None:
        self.emptied = gr.State(0)
        """The last count of questions for which the box was emptied."""
        self.taken = gr.JSON(visible="hidden")

    @property
    def outputs(self) -> list[Any]:
        """What `news` gives values for."""
        return [self.emptied, self.taken]

    def empty_after(self, event: Any, message: gr.Textbox | gr.MultimodalTextbox) -> None:
        """Empties `message` in the browser once `event` has brought its news."""
        event.then(
            None,
            [self.taken, message],
            [message],
            js=EMPTY_IF_TAKEN,
            show_progress="hidden",
            queue=False,
        )


def news(sent: int, emptied: int, draft: Draft) -> list[Any]:
    """The values of `TakenDraft.outputs`: `draft` is told once for each question sent."""
    return [sent, asdict(draft) if sent != emptied else None]
