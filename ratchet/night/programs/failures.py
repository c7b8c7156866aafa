"""Tells whether a program failed for want of service, such as a limit or a login, until when."""

import itertools
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

MOST_SECONDS = 8 * 86400  # a week's limit; what is farther ahead is taken for no time at all

# Waiting changes nothing of these: too long a prompt; opencode, of a model that it doesn't know.
LASTING = re.compile(
    r"prompt is too long|context.?(window|length)|maximum context|input is too long"
    r"|check server logs",
    re.IGNORECASE,
)
NO_SERVICE = re.compile(
    r"""
    # limits, and money
      (usage|rate|session|weekly|daily|hourly|monthly|request|token|spend(ing)?|opus|sonnet)
      .? limit
    | limit\ (reached|exceeded) | (hit|reached|exceeded)\ (your|the)\ .{0,40}limit | rate.limited
    | too\ many\ requests | quota | resource.?exhausted | exhausted\ your | throttl
    | credit\ balance | (out|run\ out)\ of\ .{0,12}credits | insufficient\ (funds|balance|credit)
    | billing | payment\ required
    # servers
    | overloaded | high\ demand | at\ capacity | capacity.exceeded | server.?error
    | service\ (is\ )?(temporarily\ )?unavailable | temporarily\ unavailable | bad\ gateway
    | gateway\ time-?out | api_error\b
    | \b(status|code|error|http(/[\d.]+)?|failed\ with|rejected)\b [\s:="'(]{0,10} (code|status)?
      [\s:="'(]{0,10} (401|402|403|407|408|425|429|5[0-5]\d)\b
    | \b(401|402|403|407|408|425|429|5[0-5]\d) \W{0,2}\ ?
      (unauthori|payment|forbidden|proxy|request|too|internal|bad|service|gateway|overl|\{)
    # network
    | ENOTFOUND | ECONN(REFUSED|RESET|ABORTED) | ETIMEDOUT | ESOCKETTIMEDOUT | EAI_AGAIN
    | EHOSTUNREACH | ENETUNREACH | ENETDOWN | socket\ hang\ up | fetch\ failed | getaddrinfo
    | connection.?(error|refused|reset|failed|closed|aborted|timed|was) | network\ (is\ |error|unr)
    | (unable|failed|could\ not|cannot|can't)\ (to\ )?(connect|resolve|reach) | name\ resolution
    | name\ or\ service\ not\ known | timed?.?out\b | waiting\ for\ network | sending\ request
    | stream\ (was\ )?(disconnected|closed) | dns\ error | no\ internet
    # login
    | not\ (logged|signed)\ in | please\ (run\ )?/?log.?in | (log|sign)\ ?in\ (again|required|first)
    | /login\b | (invalid|incorrect|missing|expired|no|bad)\ (\S+\ )?(x-)?(api|auth)[\s_-]?
      (key|token|method) | api[\s_-]?key\ (is\ )?(not|invalid|missing|expired|required)
    | not\ able\ to\ authenticate | authentication | unauthori[sz]ed | unauthenticated | \bforbidden
    | (oauth|access|refresh)\ token | token\ (has\ |is\ )?(expired|invalid|revoked)
    | missing\ environment\ variable:?\ \W?\w*(key|token) | invalid\ bearer
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_no_service(words: str, status: int = 0) -> bool:
    """Whether a call failed for want of service.

    words: what the program says of its failure, never what it answered. status: of HTTP, 0 where
    none is known.
    Examples: "You've hit your limit · resets 3am (UTC)", "529 Overloaded", "Not logged in".
    """
    if is_lasting(words):
        return False
    is_refused = status in (401, 402, 403, 407, 408, 425, 429) or 500 <= status < 600
    return is_refused or bool(NO_SERVICE.search(words))


def is_lasting(words: str) -> bool:
    """Whether what a program says of its failure will be as true after any wait."""
    return bool(LASTING.search(words))


# --------------------------------------------------------------------------------------------------
# When it comes back

COMES_BACK = r"\b(?:resets?|again|retry|available|until|back|wait|renews?|resumes?)"
EPOCH = re.compile(r"(?:reset\w{0,12}\W{1,4}|\|)(\d{10})(\d{3})?\b", re.IGNORECASE)
UNIT = r"(?:days?|hours?|hrs?|minutes?|mins?|seconds?|secs?|ms|[dhms])"
LENGTH = re.compile(rf"(\d+(?:\.\d+)?)\s*({UNIT})(?![a-z])", re.IGNORECASE)
AHEAD = re.compile(
    rf"{COMES_BACK}\W{{1,3}}(?:(?:in|after|for|about|another|delay|at least)\W{{1,3}})*"
    rf"((?:\d+(?:\.\d+)?\s*{UNIT}(?![a-z])[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
RETRY_DELAY = re.compile(r"retry[_-]?delay\W{1,4}((?:\d+(?:\.\d+)?(?:ms|[hms]))+)", re.IGNORECASE)
RETRY_AFTER = re.compile(
    r"retry[_-]?after(?P<ms>[_-]ms)?\W{1,4}(?:(?P<count>\d+(?:\.\d+)?)(?![\d:a-z])"
    r"|(?P<date>\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT))",
    re.IGNORECASE,
)
ISO = re.compile(
    rf"{COMES_BACK}.{{0,40}}?(\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{{1,6}})?)?)\d*\s?"
    r"(Z|UTC|[+-]\d\d:?\d\d)?",
    re.IGNORECASE,
)
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
CLOCK = re.compile(
    rf"{COMES_BACK}.{{0,24}}?(?:\b(?P<month>{'|'.join(MONTHS)})[a-z]*\.?\s+(?P<day>\d{{1,2}})"
    r"(?:st|nd|rd|th)?,?\s+(?:(?P<year>\d{4}),?\s+)?(?:at\s+)?)?"
    r"\b(?P<hour>\d{1,2})(?::(?P<minute>\d\d)(?::\d\d)?)?(?:\s?(?P<half>[ap])\.?m\b)?"
    r"(?:\s*\(?(?P<zone>[A-Za-z]+(?:/[A-Za-z_+\-\d/]+)?)\)?)?",
    re.IGNORECASE,
)
# names that the world says, which no database of zones has
ZONES = dict.fromkeys(("PT", "PST", "PDT"), "America/Los_Angeles") | dict.fromkeys(
    ("ET", "EST", "EDT"), "America/New_York"
)
SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def find_resume_time(words: str, now: float, known: float | None = None) -> float | None:
    """The Unix time at which service is said to come back; None where none is said.

    A time of day is the next such moment, in the zone that is named, else in that of this machine.
    now: Unix time. known: a time that was told apart from words, which is believed first. What has
    passed, or is more than 8 days ahead, is no such time.
    Examples: "resets 3:30pm (Europe/Berlin)", "try again in 5 hours 3 minutes", "Retry-After: 120".
    """
    finders = (find_epochs, find_lengths, find_dates, find_clocks)
    times = itertools.chain([known or 0.0], *(find(words, now) for find in finders))
    return next((time for time in times if now < time <= now + MOST_SECONDS), None)


def find_epochs(words: str, now: float) -> Iterator[float]:
    """Seconds or milliseconds since 1970: "resetsAt":1700000000, "limit reached|1700000000"."""
    for seconds, thousandths in EPOCH.findall(words):
        yield int(seconds) + int(thousandths or 0) / 1000


def find_lengths(words: str, now: float) -> Iterator[float]:
    """ "try again in 5 hours 3 minutes", "will reset after 3h22m12s", "Retry-After: 120"."""
    for pattern in (AHEAD, RETRY_DELAY):
        for length in pattern.findall(words):
            yield now + sum(map(seconds_of, *zip(*LENGTH.findall(length))))
    for found in RETRY_AFTER.finditer(words):
        if found["count"]:
            yield now + float(found["count"]) / (1000 if found["ms"] else 1)
        with suppress(ValueError, TypeError):
            yield parsedate_to_datetime(found["date"]).timestamp()


def seconds_of(number: str, unit: str) -> float:
    """Example: ("1.5", "hours") -> 5400.0."""
    unit = unit.casefold()  # a long s is one, too
    if unit == "ms":
        return float(number) / 1000
    return float(number) * SECONDS[unit[0]]


def find_dates(words: str, now: float) -> Iterator[float]:
    """ "resets at 2026-11-27T03:00:00Z"; without a zone it is this machine's."""
    for date, zone in ISO.findall(words):
        with suppress(ValueError, OverflowError, OSError):
            zone = "+00:00" if zone.upper() in ("Z", "UTC") else zone
            yield datetime.fromisoformat(date + zone).timestamp()


def find_clocks(words: str, now: float) -> Iterator[float]:
    """ "resets 3am", "resets at 15:30 (Europe/Berlin)", "try again at Nov 28th, 2026 3:05 PM"."""
    for found in CLOCK.finditer(words):
        if not (found["half"] or found["minute"]):
            continue  # a number of something else
        zone = zone_called(found["zone"] or "")
        today = datetime.fromtimestamp(now, zone)
        with suppress(ValueError, OverflowError, OSError):
            hour = int(found["hour"])
            if found["half"]:
                hour = hour % 12 + 12 * (found["half"].lower() == "p")
            moment = today.replace(
                hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0
            )
            if found["month"]:
                moment = moment.replace(
                    year=int(found["year"] or today.year),
                    month=MONTHS.index(found["month"].casefold()) + 1,
                    day=int(found["day"]),
                )
                if moment < today and not found["year"]:
                    moment = moment.replace(year=today.year + 1)
            elif moment <= today:
                moment += timedelta(days=1)
            yield moment.timestamp()


def zone_called(name: str) -> tzinfo | None:
    """A zone by its name; None, which is that of this machine, where there is no such zone."""
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    with suppress(ValueError, KeyError, OSError):
        return ZoneInfo(ZONES.get(name.upper(), name)) if name else None
    return None
