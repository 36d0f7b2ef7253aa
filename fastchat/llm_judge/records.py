"""The rows of the published files: questions, answers, judgments. Unknown fields are kept."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Winner = Literal["model_1", "model_2", "tie", "error"]

NEED_REF_CATS = ("math", "reasoning", "coding", "arena-hard-200")
"""Published: categories whose answers are judged beside a reference."""

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
    "arena-hard-200": 0.0,
}
"""Published: how freely each category is answered."""

OTHER_TEMPERATURE = 0.7

FAILURES = ("$ERROR$", "ERROR", "#ERROR#")
"""What published programs wrote where an answer should be."""


class Row(BaseModel):
    """A line of a file."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Question(Row):
    """What every model is asked, turn by turn."""

    question_id: int
    category: str
    turns: tuple[str, ...] = Field(min_length=1)
    reference: tuple[str, ...] | None = None
    """One solution for each turn; empty where there is none."""
    required_temperature: float | None = None

    @property
    def needs_reference(self) -> bool:
        return self.category in NEED_REF_CATS

    @property
    def temperature(self) -> float:
        """Of its answers, where nobody asks for another."""
        if self.required_temperature is not None:
            return self.required_temperature
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


class Choice(Row):
    """One of several answers to the same question."""

    index: int
    turns: tuple[str, ...]


class Answer(Row):
    """A model's answer to a question, one text a turn."""

    question_id: int
    answer_id: str = ""
    model_id: str
    choices: tuple[Choice, ...] = Field(min_length=1)
    tstamp: float = 0.0

    def is_complete(self, question: Question, num_choices: int = 1) -> bool:
        """Whether nothing is missing, and nothing is a failure instead of a text."""
        return len(self.choices) >= num_choices and all(
            len(choice.turns) == len(question.turns)
            and not any(turn in FAILURES for turn in choice.turns)
            for choice in self.choices
        )


def _judge(value: object) -> object:
    """Old files name the judge alone where others name its prompt as well."""
    return (value, "") if isinstance(value, str) else value


JudgeName = Annotated[tuple[str, str], BeforeValidator(_judge)]
"""The judge's model and the name of its prompt."""


class SingleJudgment(Row):
    """A grade for one answer."""

    question_id: int
    model: str
    judge: JudgeName
    user_prompt: str = ""
    judgment: str = ""
    score: float
    """1 to 10; -1 where the judge gave none."""
    turn: int
    tstamp: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        return (self.question_id, self.model, *self.judge, self.turn)

    @property
    def is_parsed(self) -> bool:
        return self.score != -1


class PairJudgment(Row):
    """Two verdicts on a pair of answers: in game 1 model_1 is shown first, in game 2 second."""

    question_id: int
    model_1: str
    model_2: str
    g1_winner: Winner
    g2_winner: Winner
    judge: JudgeName
    g1_user_prompt: str = ""
    g1_judgment: str = ""
    g2_user_prompt: str = ""
    g2_judgment: str = ""
    turn: int
    tstamp: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        return (self.question_id, self.model_1, self.model_2, *self.judge, self.turn)

    @property
    def is_parsed(self) -> bool:
        return "error" not in (self.g1_winner, self.g2_winner)

    @property
    def winner(self) -> Winner:
        """Published: a win needs both orders; anything else that was understood is a tie."""
        if not self.is_parsed:
            return "error"
        return self.g1_winner if self.g1_winner == self.g2_winner else "tie"


Judgment = SingleJudgment | PairJudgment
