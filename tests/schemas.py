"""Ten schemas, as pydantic models: what is generated under one is read back by the other."""

from enum import Enum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=12)]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Person(Closed):
    name: Name
    age: Annotated[int, Field(ge=0, le=150)]


class Colour(Enum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Palette(Closed):
    colours: Annotated[list[Colour], Field(min_length=1, max_length=4)]
    is_dark: bool


class Point(Closed):
    x: Annotated[float, Field(ge=-10, le=10)]
    y: Annotated[float, Field(ge=-10, le=10)]


class Line(Closed):
    start: Point
    end: Point
    label: Name | None


class Circle(Closed):
    kind: Literal["circle"]
    radius: Annotated[int, Field(ge=1, le=9)]


class Square(Closed):
    kind: Literal["square"]
    side: Annotated[int, Field(ge=1, le=9)]


class Drawing(Closed):
    shapes: Annotated[list[Circle | Square], Field(max_length=3)]


class Reading(Closed):
    on: Annotated[str, Field(pattern=r"^20[0-9]{2}-0[1-9]-[12][0-9]$")]
    device: UUID
    values: Annotated[list[Annotated[int, Field(ge=0, le=99)]], Field(max_length=5)]


class Node(Closed):
    value: Annotated[int, Field(ge=0, le=9)]
    children: Annotated[list["Leaf"], Field(max_length=2)]


class Leaf(Closed):
    value: Annotated[int, Field(ge=0, le=9)]


class Code(Closed):
    plate: Annotated[str, Field(pattern=r"^[A-Z]{2}-[0-9]{3}$")]


class Verdict(Closed):
    winner: Literal["A", "B", "tie"]
    scores: tuple[Annotated[int, Field(ge=1, le=10)], Annotated[int, Field(ge=1, le=10)]]


class Optional(Closed):
    note: Name | None = None
    flag: bool = False


class Deep(Closed):
    a: Annotated[list[Annotated[str, Field(max_length=3)]], Field(max_length=2)] | bool
    b: Annotated[list[Annotated[list[bool], Field(max_length=2)]], Field(max_length=2)]


SCHEMAS: tuple[type[BaseModel], ...] = (
    Person,
    Palette,
    Line,
    Drawing,
    Reading,
    Node,
    Code,
    Verdict,
    Optional,
    Deep,
)
