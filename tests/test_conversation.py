import base64
import io
import json
from collections.abc import Iterator
from datetime import datetime

import pytest

from fastchat.conversation import (
    Conversation,
    SeparatorStyle,
    get_conv_template,
    register_conv_template,
)
from fastchat.errors import DataError, UsageError
from fastchat.families.registry import registry
from fastchat.message import Message

PIXEL = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LINK = "https://example.org/cat.png"


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    registry.cache_clear()
    yield
    registry.cache_clear()


def chat(name: str = "vicuna_v1.1") -> Conversation:
    """A question, its answer, and a second question with an open slot."""
    conversation = get_conv_template(name)
    user, assistant = conversation.roles[:2]
    conversation.set_system_message("Be kind.")
    for role, text in ((user, "Hello!"), (assistant, "Hi!"), (user, "Who?"), (assistant, None)):
        conversation.append_message(role, text)
    return conversation


def seeing(image: str = PIXEL) -> Conversation:
    """A conversation about a picture."""
    conversation = get_conv_template("chatgpt")
    conversation.append_message("user", ("What is it?", [image]))
    conversation.append_message("assistant", "A dot.")
    conversation.append_message("user", "Thanks")
    conversation.append_message("assistant", None)
    return conversation


def test_a_conversation_grows_turn_by_turn() -> None:
    conversation = chat()
    assert conversation.get_prompt() == (
        "Be kind. USER: Hello! ASSISTANT: Hi!</s>USER: Who? ASSISTANT:"
    )
    conversation.update_last_message("A m")
    conversation.update_last_message("A model.")
    assert conversation.get_prompt().endswith("USER: Who? ASSISTANT: A model.</s>")
    assert conversation.messages[-1] == ["ASSISTANT", "A model."]


def test_two_conversations_of_one_template_share_nothing() -> None:
    one = chat()
    other = get_conv_template("vicuna_v1.1")
    assert other.messages == []
    assert other.get_system_message() != "Be kind."
    twin = one.copy()
    twin.messages[0][1] = "Bye!"
    twin.set_system_message("")
    assert one.messages[0] == ["USER", "Hello!"]
    assert one.get_system_message() == "Be kind."


def test_an_empty_system_message_is_none() -> None:
    conversation = chat("llama-2")
    conversation.set_system_message("")
    assert conversation.get_prompt() == "[INST] Hello! [/INST] Hi! </s><s>[INST] Who? [/INST]"


def test_examples_stand_in_the_messages_once() -> None:
    conversation = get_conv_template("baize")
    assert (conversation.offset, len(conversation.messages)) == (2, 2)
    conversation.set_system_message("")
    conversation.append_message("[|Human|]", "Who?")
    conversation.append_message("[|AI|]", None)
    assert conversation.get_prompt() == "[|Human|]Hello!\n[|AI|]Hi!\n[|Human|]Who?\n[|AI|]"
    assert not any(segment.learned for segment in conversation.render())
    assert conversation.to_openai_api_messages() == [{"role": "user", "content": "Who?"}]
    conversation.messages[0][1] = "Good day!"
    assert conversation.get_prompt().startswith("[|Human|]Good day!\n[|AI|]Hi!\n[|Human|]Who?")
    conversation.messages.clear()
    conversation.append_message("[|Human|]", "Who?")
    assert conversation.get_prompt() == "[|Human|]Who?\n"


def test_roles_without_names_are_told_by_their_places() -> None:
    conversation = get_conv_template("yuan")
    for text in ("Hello!", "Hi!", "Who?", None):
        conversation.append_message("", text)
    assert conversation.get_prompt() == "Hello!<sep>Hi!<sep>Who?<sep>"
    assert [m.role for m in conversation.to_messages()] == ["user", "assistant", "user"]


def test_every_template_begins_a_conversation_that_renders() -> None:
    for name in registry().template_names:
        conversation = chat(name)
        if name == "yandexgpt":
            with pytest.raises(UsageError, match="has no prompt text"):
                conversation.get_prompt()
        else:
            template = registry().template(name)
            assert conversation.get_prompt() == template.prompt(conversation.to_messages()), name


def test_the_record_for_saving_has_the_published_keys_and_comes_back() -> None:
    record = json.loads(json.dumps(chat().dict()))
    assert record == {
        "template_name": "vicuna_v1.1",
        "system_message": "Be kind.",
        "roles": ["USER", "ASSISTANT"],
        "messages": [
            ["USER", "Hello!"],
            ["ASSISTANT", "Hi!"],
            ["USER", "Who?"],
            ["ASSISTANT", None],
        ],
        "offset": 0,
    }
    assert Conversation.from_dict(record).get_prompt() == chat().get_prompt()
    seen = Conversation.from_dict(json.loads(json.dumps(seeing().to_dict())))
    assert seen.get_images() == [PIXEL]


@pytest.mark.parametrize("change", [{"messages": 1}, {"messages": [["USER"]]}, {"messages": None}])
def test_a_record_that_is_no_conversation_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not a saved conversation"):
        Conversation.from_dict(chat().dict() | change)


def test_the_worker_routes_record_has_all_published_fields() -> None:
    record = get_conv_template("falcon").to_published()
    assert record == {
        "name": "falcon",
        "system_template": "{system_message}",
        "system_message": "",
        "system_message_vision": "",
        "roles": ["User", "Assistant"],
        "messages": [],
        "offset": 0,
        "sep_style": 13,
        "sep": "\n",
        "sep2": "<|endoftext|>",
        "stop_str": "\nUser",
        "stop_token_ids": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        "max_image_size_mb": None,
    }
    assert get_conv_template("aquila").stop_str == ["</s>", "[UNK]"]
    assert get_conv_template("yandexgpt").sep_style is None
    assert get_conv_template("vicuna_v1.1").sep_style is SeparatorStyle.ADD_COLON_TWO
    assert get_conv_template("gemini").max_image_size_mb == 20


def test_messages_and_conversations_turn_into_each_other() -> None:
    messages = [
        Message(role="system", text="Be kind."),
        Message(role="user", text="What is it?", images=(PIXEL, LINK)),
        Message(role="assistant", text="A dot."),
    ]
    conversation = Conversation.from_messages(registry().template("rwkv"), messages)
    assert conversation.messages[2:] == [
        ["Bob", ("What is it?", [PIXEL, LINK])],
        ["Alice", "A dot."],
    ]
    assert conversation.to_messages() == messages
    with pytest.raises(UsageError, match="no place for the role 'tool'"):
        Conversation.from_messages(conversation.template, [Message(role="tool", text="3")])


def test_a_conversation_is_shown_in_pairs() -> None:
    assert chat().to_gradio_chatbot() == [["Hello!", "Hi!"], ["Who?", None]]
    assert seeing().to_gradio_chatbot()[0] == [f"![]({PIXEL})\nWhat is it?", "A dot."]


def test_dates_are_filled_when_a_chat_starts() -> None:
    conversation = get_conv_template("meta-llama-3.1")
    assert conversation.get_system_message().endswith("{{currentDateTimev2}}")
    conversation.fill_dates(datetime(2024, 7, 1))
    assert conversation.get_system_message().endswith("Today Date: 01 Jul 2024")


def test_pictures_bring_their_own_system_message_unless_one_was_set() -> None:
    conversation = get_conv_template("claude-3-5-sonnet-20240620")
    own = conversation.get_system_message()
    assert conversation.get_system_message(is_vision=True).startswith(own + " Describe")
    conversation.append_message("user", ("What?", [LINK]))
    assert conversation.to_messages()[0].text == conversation.system_message_vision
    conversation.set_system_message("Mine.")
    assert conversation.get_system_message(is_vision=True) == "Mine."


def test_pictures_are_marks_in_a_prompt() -> None:
    conversation = get_conv_template("vicuna_v1.1")
    conversation.append_message("USER", ("What?", [PIXEL, LINK]))
    assert conversation.get_prompt().endswith("USER: $$<image>$$$$<image>$$What? ")


def test_openai_messages() -> None:
    assert chat().to_openai_api_messages() == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Who?"},
    ]


def test_openai_messages_with_pictures() -> None:
    question = seeing(LINK).to_openai_vision_api_messages()[1]
    assert question["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": LINK}},
    ]
    question = seeing(LINK).to_openai_vision_api_messages(is_mistral=True)[1]
    assert question["content"][1] == {"type": "image_url", "image_url": LINK}
    assert seeing(LINK).to_openai_vision_api_messages()[2]["content"] == "A dot."


def test_anthropic_messages() -> None:
    messages = seeing().to_anthropic_vision_api_messages()
    assert messages[0] == {
        "role": "system",
        "content": [{"type": "text", "text": "You are a helpful assistant."}],
    }
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}
    assert messages[1]["content"][1] == {"type": "image", "source": source}
    with pytest.raises(UsageError, match="takes pictures as data:image"):
        seeing(LINK).to_anthropic_vision_api_messages()


def test_gemini_and_vertex_messages_hold_decoded_pictures() -> None:
    pytest.importorskip("PIL")
    messages = seeing().to_gemini_api_messages()
    assert [message["role"] for message in messages] == ["system", "user", "model", "user"]
    text, picture = messages[1]["content"]
    assert (text, picture.size) == ("What is it?", (1, 1))
    system, picture, *texts = seeing().to_vertex_api_messages()
    assert (system, picture.size) == ("You are a helpful assistant.", (1, 1))
    assert texts == ["What is it?", "A dot.", "Thanks"]
    broken = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    with pytest.raises(UsageError, match="no picture that can be read"):
        seeing(broken).to_vertex_api_messages()


def test_decoded_pictures_keep_their_pixels() -> None:
    image_module = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image_module.new("RGB", (2, 1), (250, 0, 5)).save(file, "PNG")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    assert seeing(address).to_vertex_api_messages()[1].getpixel((1, 0)) == (250, 0, 5)


def test_reka_messages_have_one_picture_each() -> None:
    conversation = get_conv_template("api_based_default")
    conversation.append_message("user", ("What?", [LINK, PIXEL]))
    assert conversation.to_reka_api_messages() == [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": LINK},
                {"type": "text", "text": "What?"},
            ],
        }
    ]


def test_metagen_messages_attach_the_last_picture() -> None:
    messages = seeing().to_metagen_api_messages()
    assert [message["role"] for message in messages] == ["system", "user", "ai", "user"]
    assert messages[1]["text"] == "What is it?"
    [attachment] = messages[1]["attachments"]
    assert attachment["mime"] == "image/jpeg"
    assert attachment["data"] == PIXEL.partition(",")[2]


def test_a_template_is_registered_with_the_published_fields(fresh_registry: None) -> None:
    owl = Conversation(
        name="owl",
        system_message="Hoot.",
        roles=("Mouse", "Owl"),
        messages=(("Mouse", "Hu?"), ("Owl", "Hu.")),
        offset=2,
        sep_style=SeparatorStyle.ADD_COLON_TWO,
        sep="\n",
        sep2="</s>",
        stop_str="Mouse:",
        stop_token_ids=[2],
    )
    register_conv_template(owl)
    conversation = get_conv_template("owl")
    conversation.append_message("Mouse", "Who?")
    conversation.append_message("Owl", None)
    assert conversation.get_prompt() == ("Hoot.\nMouse: Hu?\nOwl: Hu.</s>Mouse: Who?\nOwl:")
    assert (conversation.stop_str, conversation.stop_token_ids) == ("Mouse:", [2])
    with pytest.raises(UsageError, match="'owl' is registered already"):
        register_conv_template(owl)
    owl.set_system_message("Silence.")
    register_conv_template(owl, override=True)
    assert get_conv_template("owl").get_system_message() == "Silence."


def test_wrong_use_is_refused_with_a_reason() -> None:
    with pytest.raises(UsageError, match="no conversation template is called 'vicuna'"):
        get_conv_template("vicuna")
    conversation = get_conv_template("vicuna_v1.1")
    with pytest.raises(UsageError, match="no message to update"):
        conversation.update_last_message("x")
    with pytest.raises(UsageError, match="has the roles 'USER' and 'ASSISTANT', not 'System'"):
        conversation.append_message("System", "x")
    with pytest.raises(UsageError, match="a message is text, None or"):
        conversation.append_message("USER", 3)
    with pytest.raises(AttributeError):
        conversation.sep = "\n"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UsageError, match="offset 1 does not count pairs"):
        Conversation(name="x", messages=(("USER", "a"),), offset=1)
    with pytest.raises(UsageError, match="sep_style 99"):
        Conversation(name="x", sep_style=99)
