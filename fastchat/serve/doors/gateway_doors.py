"""All doors of a gateway, and what they keep running."""

from fastchat.serve.doors.door import Door, DoorTable
from fastchat.serve.doors.inside import Inside, Route
from fastchat.serve.doors.messages import MessagesDoors


class GatewayDoors:
    """The doors of one gateway.

    Args:
        route: answers a request to the gateway's own routes.
        limit_bytes: of a request's body.
    """

    def __init__(self, route: Route, *, limit_bytes: int) -> None:
        inside = Inside(route)
        doors: list[Door] = MessagesDoors(inside, limit_bytes=limit_bytes).doors()
        self.table = DoorTable(doors)
        self.at = self.table.at

    async def start(self) -> None:
        """Begins what goes on beside requests."""

    async def stop(self) -> None:
        """Ends what was started."""
