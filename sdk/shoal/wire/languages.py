"""The languages whose words Shoal stems, as Snowball calls its stemmers."""

from __future__ import annotations

from typing import Final

from shoal.wire.validation import invalid, shown

__all__ = ["DEFAULT_LANGUAGE", "LANGUAGES", "check_language"]

DEFAULT_LANGUAGE: Final = "english"

LANGUAGES: Final = (
    *("arabic", "armenian", "basque", "catalan", "czech", "danish", "dutch", "dutch_porter"),
    *("english", "esperanto", "estonian", "finnish", "french", "german", "greek", "hindi"),
    *("hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian"),
    *("persian", "polish", "porter", "portuguese", "romanian", "russian", "serbian", "sesotho"),
    *("spanish", "swedish", "tamil", "turkish", "yiddish"),
)


def check_language(language: str, field: str) -> None:
    """Check the name of a language.

    Raises:
        InvalidArgumentError: There is no such language.
    """
    if language not in LANGUAGES:
        raise invalid(
            field, f"language {shown(language)} is not known; there are {', '.join(LANGUAGES)}"
        )
