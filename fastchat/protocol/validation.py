"""What the validators of all bodies share: how one refuses."""

from pydantic_core import PydanticCustomError


def refuse(message: str, *, param: str | None = None) -> PydanticCustomError:
    """An error for a validator to raise; `message` continues the field's name.

    Args:
        param: the field, where the validator is not the field's own.
    """
    return PydanticCustomError("refused", "{message}", {"message": message, "param": param})
