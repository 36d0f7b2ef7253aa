"""The arena's tables. One vote a battle is a constraint of the database, not of a program."""

import sqlalchemy as sa

from fastchat.store.database import metadata

OUTCOMES = ("leftvote", "rightvote", "tievote", "bothbad_vote")
KINDS = ("anonymous", "named", "direct")
ANONYMOUS = KINDS[0]
ORIGINS = ("human", "judge")
"""Who voted; votes of judges are kept out of the boards of people."""

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts only its own INTEGER


def _one_of(column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=f"{column}_is_known")


models = sa.Table(
    "arena_models",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False, unique=True),
)
conversations = sa.Table(
    "arena_conversations",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("messages", sa.Text, nullable=False),
    sa.Column("gen_params", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False, index=True),
)
battles = sa.Table(
    "arena_battles",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("conversation_a", sa.ForeignKey(conversations.c.id), nullable=False),
    sa.Column("conversation_b", sa.ForeignKey(conversations.c.id), nullable=False),
    sa.Column("vision", sa.Boolean, nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    _one_of("kind", KINDS),
    _one_of("origin", ORIGINS),
)
votes = sa.Table(
    "arena_votes",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=True),
    sa.Column("battle_id", sa.ForeignKey(battles.c.id), nullable=False, unique=True),
    sa.Column("model_a", sa.ForeignKey(models.c.id), nullable=False),
    sa.Column("model_b", sa.ForeignKey(models.c.id), nullable=False),
    sa.Column("outcome", sa.SmallInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),
    sa.Column("vision", sa.Boolean, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("voted_at", sa.Float, nullable=False),
    sa.Column("voter", sa.String(128), nullable=False),
    sa.Column("waited_s", sa.Float),
    sa.CheckConstraint(f"outcome BETWEEN 0 AND {len(OUTCOMES) - 1}", name="outcome_is_known"),
    _one_of("kind", KINDS),
    _one_of("origin", ORIGINS),
    sqlite_autoincrement=True,  # a number is never given twice, even after votes were removed
)
flags = sa.Table(
    "arena_flags",
    metadata,
    sa.Column("id", _BIG, primary_key=True, autoincrement=True),
    sa.Column("conversation_id", sa.ForeignKey(conversations.c.id), nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("voter", sa.String(128), nullable=False),
    _one_of("kind", ("upvote", "downvote", "flag", "share")),
    sa.UniqueConstraint("conversation_id", "turn", "kind"),
)
images = sa.Table(
    "arena_images",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("media_type", sa.String(64), nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)
shares = sa.Table(
    "arena_shares",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("page", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
refusals = sa.Table(
    "arena_refused_votes",
    metadata,
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("reason", sa.String(32), primary_key=True),
    sa.Column("n", sa.Integer, nullable=False),
)
names = sa.Table(
    "arena_secrets",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

TABLES = (models, conversations, battles, votes, flags, images, shares, refusals, names)
