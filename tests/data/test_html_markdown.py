"""HTML of chat pages as Markdown."""

import pytest

from fastchat.data.chat_page import is_page_markup, is_wrapped_by_page, without_buttons
from fastchat.data.html_markdown import RejectedMarkup, markdown_from_html

TEX = '<annotation encoding="application/x-tex">{}</annotation>'
FORMULA = (
    '<span class="katex"><span class="katex-mathml"><math><semantics><mi>x1</mi>'
    + TEX
    + '</semantics></math></span><span class="katex-html" aria-hidden="true">x1</span></span>'
)
CODE = (
    '<pre><div class="bg-black"><div class="flex">{label}<button>{button}</button></div><div>'
    '<code class="hljs {classes}">{code}\n</code></div></div></pre>'
)


def code(text: str, *, label: str = "", button: str = "Copy code", classes: str = "") -> str:
    return CODE.format(label=label, button=button, classes=classes, code=text)


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>a <b>bold </b>word and <i> thin</i></p>", "a **bold** word and  *thin*"),
        ("<h2>A  title</h2><p>x</p><hr><p>y</p>", "## A title\n\nx\n\n---\n\ny"),
        ("<p>x<br>y</p>", "x  \ny"),
        ("<p>a</p>\n\n\n\n<p>b</p>", "a\n\nb"),
        ("<p>Steps:</p>\n1. alpha\n1. beta", "Steps:\n\n1. alpha\n1. beta"),
        ("<p>Tom &amp; Ann: 3 &lt; 4 my_var 2*3*4</p>", "Tom & Ann: 3 < 4 my_var 2*3*4"),
        ("<blockquote><p>a</p><p>b</p></blockquote>", "> a\n>\n> b"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>", "- a\n- b\n  - c"),
        ('<ol start="3"><li><p>a</p></li><li>b</li></ol>', "3. a\n4. b"),
        ("<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>", "1. a\n   - b\n2. c"),
        ('<a href="http://x.org/a b" title="t">x</a>', '[x](<http://x.org/a b> "t")'),
        ('<a href="http://x.org">http://x.org</a>', "<http://x.org>"),
        ('<p>see <a>there</a> <img src="a.png" alt="b"></p>', "see there ![b](a.png)"),
        ("<p>call <code>a_b(*c)</code> or <code>`</code></p>", "call `a_b(*c)` or `` ` ``"),
        ("<p>x<sup>2</sup> <del>no</del></p>", "x<sup>2</sup> ~~no~~"),
        ("<p>Good.</p><button>Share</button><svg><path/></svg><!-- note -->", "Good."),
        ("<div><div>a</div><section>b</section></div>", "a\n\nb"),
        ("", ""),
        ('<div class="markdown"></div>', ""),
    ],
)
def test_elements_become_markdown(html: str, markdown: str) -> None:
    assert markdown_from_html(html) == markdown


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>*star* __init__ _x_</p>", "\\*star\\* \\__init\\__ \\_x\\_"),
        ("<p>use &lt;b&gt; or &amp;lt; or `x`</p>", "use \\<b> or \\&lt; or \\`x\\`"),
        ("<p>[a](b) but [c]</p>", "\\[a](b) but [c]"),
        ("<p># no title</p><p>&gt; no quote</p>", "\\# no title\n\n\\> no quote"),
        (r"<p>\( x \) and 5 * 3 * 2</p>", r"\( x \) and 5 * 3 * 2"),
        ("<p>snake_case_name a * b _ c</p>", "snake_case_name a * b _ c"),
    ],
)
def test_prose_is_escaped_only_where_markdown_would_read_it_otherwise(
    html: str, markdown: str
) -> None:
    assert markdown_from_html(html) == markdown


def test_code_stands_verbatim() -> None:
    source = "def f():\n\n\n    return '&lt;a&gt; &amp; *b* _c_'  \n\tx"
    shown = source.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert markdown_from_html(code(source, label="<span>py</span>")) == f"```py\n{shown}\n```"
    marked = source.replace("return", '<span class="hljs-keyword">return</span>')
    assert markdown_from_html(code(marked)) == f"```\n{shown}\n```"


@pytest.mark.parametrize(
    ("html", "first_line"),
    [
        (code("x", label="<span>c++</span>", button="Copier le code"), "```c++"),
        (code("x", classes="language-rust"), "```rust"),
        (code("x", label="<span>python</span>", classes="language-x"), "```python"),
        (code("x", label="two words", classes="language-x"), "```x"),
        ("<pre>pythonCopy codex\n</pre>", "```python"),
        ("<pre>bashCopy codeCopy codex</pre>", "```bash"),
        ("<pre><div>sql<button>コピー</button></div><code>x</code></pre>", "```sql"),
        ("<pre><div>python复制代码</div><code>x\n</code></pre>", "```python"),
        ("<pre>x</pre>", "```"),
        (code("a ``` b\nx"), "````"),
    ],
)
def test_the_fence_names_the_language_and_no_button(html: str, first_line: str) -> None:
    lines = markdown_from_html(html).split("\n")
    assert lines[0] == first_line and lines[-2] == "x"


def test_what_the_page_adds_goes() -> None:
    assert markdown_from_html('<div class="text-xs">2 / 3</div><p>Hi.</p>') == "Hi."
    assert markdown_from_html("<p>Hi.</p><div>Copy120 chars / 21 words</div>") == "Hi."
    assert markdown_from_html("<p>a</p><pre><div><button>Copy code</button></div></pre>") == "a"
    assert (
        without_buttons("1 / 2\n\nHi.\n\n```pythonCopy code\nx\n```") == "Hi.\n\n```python\nx\n```"
    )
    assert without_buttons("a\n\n```\nCopy code\n```\nb") == "a\n\nb"


def test_a_formula_stands_once_as_its_source() -> None:
    inline = '<span class="math math-inline">' + FORMULA.format(r"\frac{1}{x_1}") + "</span>"
    assert markdown_from_html(f"<p>so {inline} is</p>") == r"so $\frac{1}{x_1}$ is"
    assert markdown_from_html(f"<p><b>so {inline}</b></p>") == r"**so $\frac{1}{x_1}$**"
    shown = '<span class="katex-display">' + FORMULA.format("a &lt; b") + "</span>"
    block = f'<div class="math math-display">{shown}</div>'
    assert markdown_from_html(f"<p>x</p>{block}<p>y</p>") == "x\n\n$$\na < b\n$$\n\ny"
    assert markdown_from_html(f"<p>x {shown} y</p>") == "x\n\n$$\na < b\n$$\n\ny"


def test_tables_keep_their_cells_in_their_columns() -> None:
    html = (
        "<table><thead><tr><th colspan='2'>a|b</th><th rowspan='2'>c</th></tr></thead>"
        "<tbody><tr><td>1<br>2</td><td><code>x</code></td></tr><tr><td>3</td></tr></tbody></table>"
    )
    assert markdown_from_html(html) == (
        "| a\\|b |  | c |\n| --- | --- | --- |\n| 1 2 | `x` |  |\n| 3 |  |  |"
    )


def test_text_in_the_pages_own_element_keeps_its_blanks() -> None:
    html = '<div class="flex items-start whitespace-pre-wrap">a  *b*\n\n\n  c &lt; d</div>'
    assert markdown_from_html(html) == "a  *b*\n\n\n  c < d"
    nested = '<div class="whitespace-pre-wrap"><div class="markdown prose"><p>a  b</p></div></div>'
    assert markdown_from_html(nested) == "a b"


@pytest.mark.parametrize(
    ("text", "is_html"),
    [
        ("<p>Hi.</p>", True),
        ("Steps</p>", True),
        ("2 / 2<div>Hi.</div>", True),
        ("Use `<p>x</p>` here.", False),
        ("```html\n<div>x</div>\n```", False),
        ("1 < 2 and <T> is free", False),
        ("plain", False),
    ],
)
def test_markdown_that_speaks_of_html_is_not_html(text: str, is_html: bool) -> None:
    assert is_page_markup(text) is is_html


@pytest.mark.parametrize(
    ("text", "is_wrapped"),
    [
        ('<div class="flex items-start gap-4 whitespace-pre-wrap">Hi</div>', True),
        ('<div class="box">\n<p>What is wrong here?</p></div>', False),
        ('Why does <div class="prose">x</div> fail?', False),
        ("#include <iostream>", False),
    ],
)
def test_what_a_human_typed_is_text(text: str, is_wrapped: bool) -> None:
    assert is_wrapped_by_page(text) is is_wrapped


@pytest.mark.slow
def test_broken_markup_is_rejected_and_deep_nesting_ends() -> None:
    for html in ("<p>a</p><![broken[ x", "<div>" * 3_000 + "x", "<div>" * 999_999 + "x"):
        with pytest.raises(RejectedMarkup):
            markdown_from_html(html)
    assert markdown_from_html("<p>a</p><![if x]>b<![endif]>") == "a\n\nb"
    assert markdown_from_html(code("if a&lt;![b[0]]:")) == "```\nif a<![b[0]]:\n```"


@pytest.mark.parametrize("piece", ["_a ", "*a ", "[", "[a](", "<a ", "`a ``", "&a", "~~a"])
def test_no_message_takes_the_square_of_its_length(piece: str) -> None:
    text = piece * 50_000
    assert markdown_from_html(f"<p>{text.replace('<', '&lt;')}</p>")
    assert without_buttons(text) and not is_page_markup(text + "<")
