"""Prices of tokens, for programs that tell no cost."""

from contextlib import suppress
from typing import NamedTuple

from ratchet.arena.files import Refused
from ratchet.night.programs.output import Output


class Price(NamedTuple):
    """Dollars per million tokens: of input, of output, of what is read from a cache."""

    input: float
    output: float
    cached: float = 0.0

    def cost_of(self, output: Output) -> float:
        """In dollars."""
        used = output.input, output.output, output.cached
        return sum(price * tokens for price, tokens in zip(self, used)) / 1e6


def parse_price(words: str) -> Price:
    """Examples: "3,15", "3,15,0.3". Raises Refused."""
    with suppress(ValueError, TypeError):
        price = Price(*map(float, words.split(",")))
        if all(0 <= each < 1e6 for each in price):
            return price
    raise Refused(
        f"--price {words}: that is no price: give dollars per million tokens of input and of "
        "output, such as --price 3,15"
    )
