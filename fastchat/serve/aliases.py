"""Other names of models, at the gateway: endpoints never hear of them."""

from collections.abc import Mapping, Sequence

from fastchat.serve.asgi import json_body, parse_json_object


class Aliases:
    """Names that mean models under their own names.

    A name that an endpoint serves itself means that endpoint's model, not the alias's. What a
    key may use is asked of the model itself, so that no alias opens what is closed.

    Args:
        models: the model by its other name.
    """

    def __init__(self, models: Mapping[str, str]) -> None:
        self._models = dict(models)

    def model_of(self, name: str) -> str:
        """The model that a name means, which no endpoint serves."""
        return self._models.get(name, name)

    def listed(self, served: Sequence[str]) -> list[tuple[str, str]]:
        """Every name that can be asked now, with the model that it means."""
        aliases = [(a, m) for a, m in self._models.items() if m in served and a not in served]
        return sorted([*((model, model) for model in served), *aliases])


def with_model(body: bytes, model: str) -> bytes:
    """The same request to another model.

    Raises:
        UsageError: the body is nested too deeply.
    """
    return json_body(parse_json_object(body) | {"model": model})
