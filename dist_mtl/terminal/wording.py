"""Words that many messages share: a count with its noun, and what to say of a run of few steps."""

# Steps of a run below which it is too short to be looked at. AdamW moves a weight by about its learning rate a step: by
# 0.1 in 100 steps of 1e-3, which is as far as a weight of 100 inputs begins from 0.
FEWEST_STEPS = 100


def plural(n: float, singular: str, many: str = "") -> str:
    """1 step, 1,500 steps."""
    return f"{n:,.0f} {singular if n == 1 else many or singular + 's'}"


def few_steps(steps: int, global_batch: int, is_capped: bool) -> str | None:
    """What to say of a run of so few steps that nothing else about it matters yet; None for a longer one.

    `is_capped`: train.max_steps ends it.
    """
    if steps >= FEWEST_STEPS:
        return None
    remedy = "train.max_steps" if is_capped else "train.epochs"
    return (
        f"{plural(steps, 'step')}; at {plural(global_batch, 'row')} a step the model has hardly moved from where it "
        f"began: lower train.global_batch or raise {remedy}, to have some hundred steps"
    )
