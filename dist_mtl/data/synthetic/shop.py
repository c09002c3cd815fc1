"""The planted truth of the sample logs: a shop whose users click and buy with probabilities that are known.

The recipe follows measured logs (KuaiRand, Ali-CCP, Badanidiyuru, PWiseR's remark on noisy clicks):

    who     users by log-normal activity; taste, segment and age are draws from the word of the user's id
    what    the policy takes two items by popularity and shows the one it believes this user likes more
    click   interest seen through the position, or an accident: `accidents` of all clicks are independent of interest
            and never convert
    buy     its logit follows the interest with correlation rho of the user's segment; the rest is price, hour, device

Weights are chosen so that a small model can learn the truth from about a million rows: conversions are few (7,200 a
million impressions), hence most of their signal sits in features of few values; ids carry more of the clicks'.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dist_mtl.config import SampleLogs
from dist_mtl.data.hashing import random_bits
from dist_mtl.data.synthetic import draws, timeline
from dist_mtl.errors import ConfigError

SHARD_ROWS = 65_536
CATEGORIES, BRANDS, TASTES, DEVICES, POSITIONS, WEEKDAYS = 24, 400, 6, 4, 10, 7
# Correlation of the click's and the purchase's logit, one a user segment: what an instance-wise relatedness is to find.
RHO = np.array([-0.3, 0.0, 0.3, 0.5, 0.7, 0.9])
ACCIDENT_BY_DEVICE = np.array([1.3, 1.0, 0.7, 0.4])
CLICK_SCALE, PURCHASE_SCALE = 1.6, 1.2  # logits per unit: the ceilings are then about 0.78, 0.83 (CVR), 0.92 (CTCVR)
MEAN_LOG_PRICE = 3.0  # e^3 = 20
STREAM = "stream"  # the split of logs in the order of time, where a row's number tells its time
DAYS = {"train": range(21), "test": range(21, 28), "calibration": range(21)}

Words = Callable[[str], np.ndarray]  # name of a draw -> one word a row


@dataclass(frozen=True)
class World:
    """The effects of the low-cardinality features, each about N(0, 1), and the two intercepts.

    A leading axis of 2 is (on the click, on the purchase).
    """

    category: np.ndarray  # [2, CATEGORIES]
    segment: np.ndarray  # [2, segments]
    device: np.ndarray  # [2, DEVICES]
    week: np.ndarray  # [CATEGORIES, WEEKDAYS], on the click
    affinity: np.ndarray  # [TASTES, CATEGORIES], on the click
    picks: np.ndarray  # [TASTES, 256] uint8: a taste's past categories, each as often as it occurs
    click_bias: float = 0.0
    purchase_bias: np.ndarray | float = 0.0  # [segments], or one for all of them
    accident_scale: float = 1.0


@dataclass(frozen=True)
class Impressions:
    """A shard before its labels: what is logged, and what the labels depend on; one value a row.

    `features`, by column name; `missing`: where the rating was not logged; `history`: (offsets, past categories).
    """

    features: dict[str, np.ndarray]
    missing: np.ndarray
    history: tuple[np.ndarray, np.ndarray]
    interest: np.ndarray  # about N(0.5, 0.9): how much this user likes this item now
    seen: np.ndarray  # what the position adds to the click's logit
    accident: np.ndarray  # relative probability of an accidental click
    purchase: np.ndarray  # about N(0, 1): what a purchase needs besides interest
    rho: np.ndarray


@lru_cache(maxsize=4)
def world(spec: SampleLogs) -> World:
    """The world of a seed, calibrated: spec.ctr of the impressions are clicked, spec.cvr of the clicks convert.

    Raises ConfigError where no intercept gives that rate (accidental clicks never convert, so cvr stays below 0.8).
    """
    plain = _effects(spec.seed)
    sample = impressions(spec, plain, "calibration", 0)
    if spec.clickbait:  # the items shown most may be the worst ones, or the best
        plain = replace(plain, accident_scale=1 / float(sample.accident.mean()))
        sample = replace(sample, accident=sample.accident * plain.accident_scale)

    def chances(click_bias: float, purchase_bias: float) -> tuple[np.ndarray, np.ndarray]:
        return probabilities(spec, replace(plain, click_bias=click_bias, purchase_bias=purchase_bias), sample)

    def bias_for(rows: np.ndarray | slice) -> float:
        clicks = float(ctr[rows].mean())
        return solve(lambda b: float(chances(click_bias, b)[1][rows].mean()), clicks * spec.cvr)

    try:
        click_bias = solve(lambda b: float(chances(b, 0.0)[0].mean()), spec.ctr)
        ctr, segment = chances(click_bias, 0.0)[0], sample.features["segment"]
        if spec.equal_cvr:
            purchase_bias = np.array([bias_for(segment == one) for one in range(len(RHO))])
        else:
            purchase_bias = bias_for(slice(None))
    except ValueError:
        raise ConfigError(
            f"data.sample: ctr = {spec.ctr} with cvr = {spec.cvr} can not be had: {spec.accidents:.0%} of the clicks "
            f"are accidental and never convert; choose a cvr well below {1 - spec.accidents:.1f}"
        ) from None
    return replace(plain, click_bias=click_bias, purchase_bias=purchase_bias)


def impressions(spec: SampleLogs, world: World, split: str, index: int) -> Impressions:
    """Shard `index` of a split: SHARD_ROWS rows, a function of the arguments alone."""

    def words(name: str) -> np.ndarray:
        return random_bits(SHARD_ROWS, spec.seed, split, index, name)

    if split == STREAM:
        when = timeline.moments(index * SHARD_ROWS, SHARD_ROWS, spec.rows_per_day)
    else:
        when = _moments(words("time"), DAYS[split])
    user = draws.scatter(draws.active(draws.uniform(words("user")), spec.num_users), spec.num_users, spec.seed, "users")
    user = timeline.alive(user, spec.num_users, when.days, spec.new_ids_per_day, spec.seed, "users")
    of_user = _latent(spec.seed, user)
    taste = draws.below(of_user("taste"), TASTES)
    segment = draws.below(of_user("segment"), len(RHO))
    age = np.clip(np.rint(36 + 12 * draws.normal(of_user("age"))), 16, 80).astype(np.int32)
    device = (draws.uniform(words("device")) ** 1.5 * DEVICES).astype(np.int32)
    position = draws.below(words("position"), POSITIONS)

    item, category, quality = _shown(spec, world, words, taste, when)
    of_item = _latent(spec.seed, item)
    brand = (draws.uniform(of_item("brand")) ** 2 * BRANDS).astype(np.int32)
    level = draws.normal(_latent(spec.seed, np.arange(CATEGORIES))("price"))[category]
    log_price = 0.6 * level + 0.8 * draws.normal(of_item("price"))
    rating = 0.85 * quality + 0.53 * draws.normal(of_item("rating"))
    discount = np.maximum(draws.uniform(words("discount")) - 0.5, 0)  # half of the offers have none

    features = {
        "user_id": user,
        "item_id": item,
        "segment": segment,
        "age": age,
        "device": device,
        "category": category,
        "brand": brand,
        "position": position,
        "day": when.day,
        "weekday": when.day % WEEKDAYS,
        "hour": when.second // np.int32(timeline.HOUR),
        "time": when.time,
        "price": np.exp(MEAN_LOG_PRICE + log_price).astype(np.float32),
        "discount": discount.astype(np.float32),
        "rating": (3.8 + 0.5 * rating).astype(np.float32),
    }
    interest, purchase = _logits(spec.seed, world, features, taste, quality)
    return Impressions(
        features,
        missing=draws.below(words("missing"), 32) == 0,
        history=_history(world, words, lambda n: random_bits(n, spec.seed, split, index, "history"), taste),
        interest=interest,
        seen=0.9 - 0.6 * np.log1p(position),
        accident=ACCIDENT_BY_DEVICE[device] * _clickbait(spec, world, of_item),
        purchase=purchase,
        rho=RHO[segment],
    )


def probabilities(
    spec: SampleLogs, world: World, rows: Impressions, accidents: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(P(click), P(click and conversion)) of each row; without `accidents` a click is one by interest."""
    real = sigmoid(world.click_bias + CLICK_SCALE * rows.interest + rows.seen)
    accident = np.minimum(spec.accidents * spec.ctr * rows.accident, 1) * accidents
    mixed = rows.rho * rows.interest + np.sqrt(1 - rows.rho**2) * rows.purchase
    bias = world.purchase_bias if np.isscalar(world.purchase_bias) else world.purchase_bias[rows.features["segment"]]
    return real + accident - real * accident, real * sigmoid(bias + PURCHASE_SCALE * mixed)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), through tanh, which does not overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def solve(rate: Callable[[float], float], target: float) -> float:
    """The intercept at which an increasing `rate` is `target`; ValueError if none within +-40 comes near it."""
    low, high = -40.0, 40.0
    for _ in range(50):  # 80 / 2**50 is below what a rate can tell
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) < target else (low, middle)
    if abs(rate(low) - target) > 1e-3 * target:
        raise ValueError(f"no intercept gives {target}")
    return low


def _effects(seed: int) -> World:
    """The uncalibrated world of a seed. Effects are standardised, so that every seed has about the same ceiling."""

    def effects(name: str, *shape: int) -> np.ndarray:
        z = draws.normal(random_bits(int(np.prod(shape)), seed, "world", name)).reshape(shape)
        return (z - z.mean(axis=-1, keepdims=True)) / z.std(axis=-1, keepdims=True)

    affinity = effects("affinity", TASTES, CATEGORIES)
    share = np.cumsum(np.exp(2 * affinity), axis=1)  # 2: eight past categories then tell a taste from the five others
    places = (np.arange(256) + 0.5) / 256
    picks = np.stack([np.searchsorted(row / row[-1], places) for row in share]).astype(np.uint8)
    return World(
        category=effects("category", 2, CATEGORIES),
        segment=effects("segment", 2, len(RHO)),
        device=effects("device", 2, DEVICES),
        week=effects("week", CATEGORIES, WEEKDAYS),
        affinity=affinity,
        picks=picks,
    )


def _logits(
    seed: int, world: World, rows: dict[str, np.ndarray], taste: np.ndarray, quality: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(interest, purchase) of the rows: weighted sums of effects of about unit variance."""
    category, segment, device, hour = rows["category"], rows["segment"], rows["device"], rows["hour"]
    of_user, of_item = _latent(seed, rows["user_id"]), _latent(seed, rows["item_id"])
    appeal = draws.normal(_latent(seed, np.arange(BRANDS))("brand appeal"))
    clock = np.arange(timeline.HOURS) * (2 * np.pi / timeline.HOURS)
    log_price = np.log(rows["price"]) - MEAN_LOG_PRICE
    offer = (rows["discount"] - 0.125) / 0.161
    interest = (
        0.40 * world.affinity[taste, category]
        + 0.35 * world.category[0, category]
        + 0.35 * quality
        + 0.20 * appeal[rows["brand"]]
        + 0.30 * world.segment[0, segment]
        + 0.15 * draws.normal(of_user("curiosity"))
        + 0.25 * np.abs((rows["age"] - 36) / 12)
        + 0.35 * world.device[0, device]
        + 0.15 * world.week[category, rows["weekday"]]
        + 0.35 * np.cos(clock - 5.5)[hour]
        + 0.35 * offer
        - 0.20 * log_price
    )
    purchase = (
        0.45 * world.category[1, category]
        + 0.30 * world.segment[1, segment]
        + 0.40 * world.device[1, device]
        + 0.42 * np.cos(clock - 3.5)[hour]
        + 0.35 * offer
        - 0.50 * log_price
        + 0.15 * draws.normal(of_user("budget"))
        + 0.15 * draws.normal(of_item("trust"))
    )
    return interest, purchase


def _latent(seed: int, ids: np.ndarray) -> Words:
    """The words of these ids, by the name of what is drawn from them."""
    return lambda name: draws.words_of(ids, seed, name)


def _moments(words: np.ndarray, days: range) -> timeline.Moments:
    """In no order, from one word a row."""
    hours = np.searchsorted(timeline.traffic(), (np.arange(4096) + 0.5) / 4096).astype(np.int32)
    day = draws.below(words, len(days)) + np.int32(days.start)
    low = words << np.uint64(32)
    second = draws.below(low << np.uint64(12), timeline.HOUR)
    return timeline.Moments(day, hours[(low >> np.uint64(52)).astype(np.int32)] * np.int32(timeline.HOUR) + second)


def _shown(
    spec: SampleLogs, world: World, words: Words, taste: np.ndarray, when: timeline.Moments
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item, category, quality) of the one of two candidates that the policy scores higher.

    Its score is a noisy part of the interest, so impressions over-represent what is liked, as in a real log.
    """

    def candidate(name: str) -> tuple[np.ndarray, ...]:
        rank = draws.popular(draws.uniform(words(name)), spec.num_items)
        item = draws.scatter(rank, spec.num_items, spec.seed, "items")
        item = timeline.alive(item, spec.num_items, when.days, spec.new_ids_per_day, spec.seed, "items")
        of_item = _latent(spec.seed, item)
        category = (draws.uniform(of_item("category")) ** 1.5 * CATEGORIES).astype(np.int32)
        quality = draws.normal(of_item("quality"))
        noise = draws.normal(words(f"{name} noise"))
        return item, category, quality, 0.5 * world.affinity[taste, category] + 0.35 * quality + 0.6 * noise

    first, second = candidate("first"), candidate("second")
    better = second[3] > first[3]
    item, category, quality = (np.where(better, b, a) for a, b in zip(first[:3], second[:3], strict=True))
    return item, category, quality


def _clickbait(spec: SampleLogs, world: World, of_item: Words) -> np.ndarray | float:
    """An item's rate of accidental clicks, log-normal, relative to that of all impressions."""
    if spec.clickbait == 0:
        return 1.0
    return world.accident_scale * np.exp(spec.clickbait * draws.normal(of_item("clickbait")))


def _history(
    world: World, words: Words, flat_words: Callable[[int], np.ndarray], taste: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, past categories): none for one row in 16, else 1 to 16; eight of them from each word."""
    length = words("length")
    count = np.where(draws.below(length, 16) == 0, 0, 1 + draws.below(length << np.uint64(32), 16))
    offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    total = int(offsets[-1])
    places = flat_words(-(-total // 8)).astype("<u8").view(np.uint8)[:total]
    return offsets, world.picks[np.repeat(taste, count), places]
