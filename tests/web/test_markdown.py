"""What people and models write, made safe to show and complete."""

import pytest

from fastchat.web.markdown import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b>bold</b> word<br>", "a <b>bold</b> word<br>"),
        ("<b onclick=x>", "&#60;b onclick=x>"),
        ("<script>x</script>", "&#60;script>x&#60;/script>"),
        ("List<String> <!-- x -->", "List&#60;String> &#60;!-- x -->"),
        ("1 < 2", "1 < 2"),
        ("`<p>` <p>", "`<p>` &#60;p>"),
        ("``a ` <p>`` <p>", "``a ` <p>`` &#60;p>"),
        ("```html\n<p>\n```\n<p>", "```html\n<p>\n```\n&#60;p>"),
        ("~~~\n<p>\n```\n<p>\n~~~\n<p>", "~~~\n<p>\n```\n<p>\n~~~\n&#60;p>"),
        ("```html\n<p> still open", "```html\n<p> still open"),
        ("text\n\n    <p>\n\n<p>", "text\n\n    <p>\n\n&#60;p>"),
        ("$5 and $6", "&#36;5 and &#36;6"),
        ("$x<y$ costs $5", "$x<y$ costs &#36;5"),
        ("$$a<b$$ \\(a<b\\) \\[a<b\\]", "$$a<b$$ \\(a<b\\) \\[a<b\\]"),
        ("\\$5", "\\$5"),
        ("![x](http://y/z.png)", "&#33;[x](http://y/z.png)"),
        ("", ""),
    ],
)
def test_only_markup_that_is_meant_stays_markup(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_copy_gives_the_text_back() -> None:
    text = "<div> costs $5 ![a](b)\n```\n<div> $5\n```"
    assert shown(text) != text
    back = shown(text).replace("&#60;", "<").replace("&#36;", "$").replace("&#33;", "!")
    assert back == text
