"""Parses amounts of money that a person typed."""

from decimal import Decimal, InvalidOperation

from nightshift.cli.errors import WrongUsage


def microdollars(text: str) -> int:
    """Returns an amount in US dollars, such as `20` or `$0.50`, as whole microdollars. Raises WrongUsage."""
    try:
        amount = Decimal(text.removeprefix("$")) * 1_000_000
    except InvalidOperation:
        raise WrongUsage(f"{text!r} is not an amount in dollars", hint="write it as 20 or 0.50") from None
    if not amount.is_finite() or amount != amount.to_integral_value() or amount <= 0:
        raise WrongUsage(
            f"{text!r} cannot be a budget", hint="give more than 0, with at most six digits after the point"
        )
    return int(amount)
