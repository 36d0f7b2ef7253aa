from dataclasses import fields, replace

import pytest

from fastchat.errors import UsageError
from fastchat.families.registry import registry
from fastchat.families.styles import SeparatorStyle, template_from_published
from fastchat.template import Published, Template


@pytest.mark.parametrize("name", registry().template_names)
def test_the_published_fields_describe_the_same_layout_as_our_strings(name: str) -> None:
    template = registry().template(name)
    derived = template_from_published(name, template.published)
    ours = {"source", "system_message", "system_message_vision", "examples", "stop"}
    for field in fields(Template):
        if field.name not in ours | {"stop_token_ids"}:
            assert getattr(derived, field.name) == getattr(template, field.name), field.name


def test_the_numbers_of_the_styles_are_published() -> None:
    assert [style.value for style in SeparatorStyle] == list(range(1, 24))
    assert SeparatorStyle.ADD_COLON_TWO == 2
    assert SeparatorStyle.CLLM == 22


def test_every_style_is_used_by_a_template() -> None:
    used = {registry().template(name).published.sep_style for name in registry().template_names}
    assert used == {None, *SeparatorStyle}


def test_unknown_styles_and_missing_roles_are_refused() -> None:
    published = Published(sep_style=24)
    with pytest.raises(UsageError, match="sep_style 24 is not a number from 1 to 23"):
        template_from_published("x", published)
    with pytest.raises(UsageError, match="'x' needs two roles"):
        template_from_published("x", replace(published, roles=("USER",)))
