"""Keeps or drops conversations by their language, and drops those that repeat themselves."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from fastchat.data.languages import CJK, check_codes, detect_language, may_be_cjk
from fastchat.data.pipeline import PipelineSettings, announce, run
from fastchat.data.records import Record
from fastchat.data.steps import Outcome
from fastchat.errors import UsageError
from fastchat.settings import CommaList, run_command

ALL = "all"
N_DIGITS = 9
REPEATED_DIGIT = re.compile(rf"([0-9])\1{{{N_DIGITS - 1}}}")
LONGEST_PHRASE = 8
"""Words of a phrase whose repetition is looked for."""

ZEROS = "of these, for a run of zeros"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionalCleanSettings(PipelineSettings):
    """Keeps or drops conversations by language; drops those with long repetitions."""

    keep_lang: CommaList = ()
    """Languages to keep, as ISO 639 codes separated by commas, such as en or en,de; all of them
    unless given, or with the word all."""
    skip_lang: CommaList = ()
    """Languages to drop, as codes separated by commas."""
    reduce_rep: bool = False
    """Drop conversations in which a digit stands nine times in a row. Good data may hold such
    runs, of zeros above all; the summary says how many."""
    max_repeats: int | None = None
    """Drop conversations in which a phrase of up to 8 words stands more often than this in a
    row."""


@dataclass(slots=True, kw_only=True)
class OptionalClean:
    """The step: drops by language and repetition."""

    keep: frozenset[str] = frozenset()
    """Languages that stay; empty for all."""
    skip: frozenset[str] = frozenset()
    reduce_rep: bool = False
    max_repeats: int | None = None
    count_languages: bool = False
    """Whether languages are counted even where none is kept or dropped for it."""
    name: str = "optional_clean"

    @property
    def is_light(self) -> bool:
        """Whether the work on a record is less than sending the record to another process."""
        return (
            not self.count_languages
            and not self.keep
            and self.skip <= CJK
            and self.max_repeats is None
        )

    def prepare(self) -> None:
        """Needs nothing beforehand."""

    def apply(self, record: Record) -> Outcome:
        """The record, or why not."""
        texts = [turn.text for turn in record.turns]
        changed: dict[str, int] = {}
        if self._asks(texts):
            language = detect_language(texts)
            changed[f"language {language}"] = 1
            if language in self.skip or (self.keep and language not in self.keep):
                return Outcome(dropped=f"language {language}", changed=changed)
        if self.reduce_rep:
            for text in texts:
                if found := REPEATED_DIGIT.search(text):
                    if found[1] == "0":
                        changed[ZEROS] = 1
                    return Outcome(dropped="repeated digits", changed=changed)
        if self.max_repeats is not None and any(
            repeats_phrase(text, limit=self.max_repeats) for text in texts
        ):
            return Outcome(dropped="repeated phrase", changed=changed)
        return Outcome(records=(record,), changed=changed)

    def _asks(self, texts: Sequence[str]) -> bool:
        """Whether the language of these texts matters."""
        if self.count_languages or self.keep:
            return True
        # Scripts alone tell that a text is not in one of these.
        return bool(self.skip) and (not self.skip <= CJK or may_be_cjk(texts))


def repeats_phrase(text: str, *, limit: int) -> bool:
    """Whether a phrase stands more than `limit` times in a row."""
    words = text.split()
    for length in range(1, LONGEST_PHRASE + 1):
        if len(words) < length * (limit + 1):
            return False
        n_same = 0
        for word, earlier in zip(words[length:], words, strict=False):
            n_same = n_same + 1 if word == earlier else 0
            if n_same >= length * limit:
                return True
    return False


def optional_clean_step(settings: OptionalCleanSettings) -> OptionalClean:
    """The step that the settings ask for.

    Raises:
        UsageError: a code is unknown, or both kinds of languages are given.
    """
    keep = () if settings.keep_lang == (ALL,) else settings.keep_lang
    if keep and settings.skip_lang:
        raise UsageError("--keep-lang and --skip-lang exclude each other; give one of them.")
    if settings.max_repeats is not None and settings.max_repeats < 1:
        raise UsageError(f"--max-repeats {settings.max_repeats} is too small; give 1 or more.")
    return OptionalClean(
        keep=check_codes(keep, flag="--keep-lang"),
        skip=check_codes(settings.skip_lang, flag="--skip-lang"),
        reduce_rep=settings.reduce_rep,
        max_repeats=settings.max_repeats,
        count_languages=settings.report is not None,
    )


def default_out_file(settings: OptionalCleanSettings) -> str:
    """The published name, which tells what was done."""
    name = "sharegpt_clean"
    if settings.keep_lang not in ((), (ALL,)):
        name += "_" + "_".join(settings.keep_lang)
    if settings.skip_lang:
        name += "_skip_" + "_".join(settings.skip_lang)
    return name + "_reduce_rep" * settings.reduce_rep + ".json"


def optional_clean(settings: OptionalCleanSettings) -> None:
    """Runs the step over the files and prints the counts."""
    out_file = default_out_file(settings)
    step = optional_clean_step(settings)
    if settings.workers is None and step.is_light:
        settings = dataclasses.replace(settings, workers=1)
    report = run(settings, [step], out_file=out_file)
    if n_zeros := report.changed[ZEROS]:
        print(
            f"note: --reduce-rep dropped {n_zeros} conversations for a run of zeros, "
            "which good data may hold",
            file=sys.stderr,
        )
    announce(settings, f"#in: {report.read}, #out: {report.kept}", out_file=out_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        OptionalCleanSettings, optional_clean, argv, prog="python3 -m fastchat.data.optional_clean"
    )


if __name__ == "__main__":
    raise SystemExit(main())
