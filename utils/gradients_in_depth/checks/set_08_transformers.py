"""The checks of set 08, Transformers."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradients_in_depth.checks.common import (
    Mistake,
    as_array,
    as_number,
    as_whole_number,
    call,
    compare,
    exercise,
)


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(array) for array in arrays])


def _softmax(logits: np.ndarray, axis: int | None = 1) -> np.ndarray:
    """Weights that sum to 1 along `axis`; a masked logit is -inf, and a line of nothing else gives NaN."""
    with np.errstate(all="ignore"):
        p = np.exp(logits - logits.max(axis=axis, keepdims=True))
        return p / p.sum(axis=axis, keepdims=True)


def _back(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Through the softmax of each row: (queries, keys)."""
    return p * (g - (p * g).sum(axis=1, keepdims=True))


# --- Better than the mean ----------------------------------------------------------------------------------


def _attention_case(
    rng: np.random.Generator, scale: float, masked: bool, queries: int, keys: int
) -> tuple[np.ndarray, np.ndarray]:
    logits = scale * rng.normal(size=(queries, keys))
    if masked:
        hidden = rng.random((queries, keys)) < 0.4
        hidden[np.arange(queries), rng.integers(keys, size=queries)] = False
        hidden[0, 0], hidden[0, 1] = True, False
        logits[hidden] = -np.inf
    return logits, rng.normal(size=(queries, keys)) + 0.5


@exercise(
    2,
    praise="each logit hears by how much its key beats the mean, and a masked one hears nothing.",
    hint=(
        "The lesson has the formula for one query: what a weight is worth, less what the query gets "
        "already, times the weight. Which sum belongs to ONE row? And a softmax stays what it is "
        "when the same "
        "number is taken off all logits of a row: which number makes exp harmless?"
    ),
)
def logit_messages(messages: Callable, seed: int) -> None:
    """The gradient by the logits of a softmax over keys, for all queries, with masks and large logits."""
    rng = np.random.default_rng([81, seed])
    what = "The gradient by the logits"
    shapes = [(3, 5), (6, 4), (4, 4)]
    plain = [_attention_case(rng, 1.5, False, *shape) for shape in shapes]
    found = _flat([as_array(call(messages, *case), case[0].shape, what) for case in plain])
    weights = [(_softmax(logits), g) for logits, g in plain]

    def each(one: Callable) -> np.ndarray:
        """What `one` makes of the weights p and their gradients g."""
        return _flat([one(p, g) for p, g in weights])

    right = each(_back)
    mistakes = [
        (each(lambda p, g: p), "Those are the weights themselves: the way BACK is asked for."),
        (
            each(lambda p, g: p * g),
            "Each weight times its own gradient: a logit that rises takes weight from all other "
            "keys of its row.",
        ),
        (
            each(lambda p, g: p * (1 - p) * g),
            "That is the diagonal of the Jacobian alone, as for a sigmoid: a logit changes the OTHER "
            "weights as well.",
        ),
        (
            each(lambda p, g: p * (g - g.mean(axis=1, keepdims=True))),
            "The mean that is taken off counts all keys alike: how much does each count for this query?",
        ),
        (
            each(lambda p, g: g - (p * g).sum(axis=1, keepdims=True)),
            "The comparison with the mean is there: but does a key with next to no weight get it in full?",
        ),
        (
            each(lambda p, g: p * (g - (p * g).sum())),
            "What is taken off is summed over ALL queries: each row has a softmax of its own.",
        ),
        (
            each(lambda p, g: p * (g - (p * g).sum(axis=0, keepdims=True))),
            "What is taken off is summed over the queries of one key: each ROW has a softmax of its own.",
        ),
        (-right, "The sign is turned round: a key that does better than the mean has a POSITIVE gradient."),
        (
            _flat([_back(_softmax(logits.T).T.T, g.T).T for logits, g in plain]),
            "That softmax runs over the queries: one query shares its attention out among the KEYS.",
        ),
        (
            _flat([_back(_softmax(logits, axis=None), g) for logits, g in plain]),
            "That softmax runs over the whole array: each row has weights of its own, which sum to 1.",
        ),
    ]
    otherwise = (
        "Small logits without a mask are not right yet: take one row of two keys by hand, and "
        "compare it with "
        "autograd."
    )
    compare(found, right, mistakes, otherwise, 1e-6)
    for scale, masked in ((1.5, True), (700.0, False), (700.0, True)):
        logits, g = _attention_case(rng, scale, masked, 8, 6)
        if masked and scale > 2:
            logits[0] = [-np.inf, -1800.0, -1790.0, -np.inf, -1795.0, -np.inf]  # exp turns all of them to 0
        else:
            logits[1, :2] = np.clip(logits[1, :2], -3, 3) + (1900.0 if scale > 2 else 0.0)
        given = as_array(call(messages, logits, g), logits.shape, what)
        hidden = np.isneginf(logits)
        if not np.isfinite(given).all():
            raise Mistake(
                "With a masked key your function finds NaN: −∞ times 0, or −∞ less −∞, is no number."
                if scale < 2
                else "With large logits your function finds NaN or inf: what are exp(1900), and a "
                "sum of nothing "
                "but exp(−1800)?"
            )
        if (np.abs(given[hidden]) > 1e-12).any():
            raise Mistake("A masked key gets a gradient: it has no weight, whatever its logit does.")
        unmasked = _back(_softmax(np.where(hidden, 0.0, logits)), g) * ~hidden
        clipped = _back(_softmax(np.clip(logits, -500, 500)), g)
        late = [
            (unmasked, "The mask comes too late: masked keys have taken weight away from the others."),
            (
                clipped,
                "Large logits are cut off: two that are cut get equal weights, which they should not.",
            ),
        ]
        which = "masked keys" if masked else "large logits"
        compare(
            given,
            _back(_softmax(logits), g),
            late,
            f"Without a mask small logits are right, but {which} are not: "
            "only differences within a row count, and a masked key takes no part.",
            1e-6,
        )


# --- The first of a thousand -------------------------------------------------------------------------------

_TOKENS = 1000


@exercise(
    3,
    praise="the first token is heard by all, and how loud that is depends on whether they agree.",
    hint=(
        "With which weight does position i see token 1, for i = 1, 2, 3 and so on? What is the "
        "length of a sum of "
        "vectors that point every which way, and of one whose vectors are all the same? And which "
        "positions "
        "see token j at all?"
    ),
)
def causal_shares(first: float, faint: int, agreed: float, seed: int) -> None:
    """Gradients of the values under causal uniform attention over 1000 tokens."""
    share = 1 / np.arange(1, _TOKENS + 1)
    size, together = (np.cumsum(part[::-1])[::-1] for part in (share**2, share))
    size = np.sqrt(size)
    found = as_number(first, "first")
    mistakes = [
        (
            size[0] ** 2,
            "That is the mean SQUARE of the length for token 1: its root is asked for.",
        ),
        (together[0], "As if all messages pointed the same way: for `first` they point every which way."),
        (
            1 / math.sqrt(_TOKENS),
            "That is attention without a mask, as in the lesson: here position i shares its attention out "
            "among i tokens.",
        ),
        (
            1 / _TOKENS,
            "That is what the LAST position alone sends to token 1: all the others see it, too.",
        ),
        (1.0, "That is from position 1 alone: all the others see token 1, too."),
        (
            math.sqrt(_TOKENS),
            "As if every position looked at token 1 with weight 1: position i has 1/i for it.",
        ),
        (
            math.sqrt(together[0]),
            "The weights are added, and a root is taken after that: it is the SQUARES of lengths "
            "that add up.",
        ),
    ]
    compare(
        found,
        size[0],
        mistakes,
        f"{found:.3g} is not the size for token 1: which weight has it in position i, and how do "
        f"lengths add up "
        "that point every which way?",
        0.02,
    )
    token = as_whole_number(faint, "faint")
    if token > _TOKENS:
        raise Mistake("faint is the number of a token, from 1 to 1000.")

    def before(values: np.ndarray, limit: float) -> int:
        return int(np.argmax(values < limit)) + 1

    endless = np.sqrt(size**2 + 1 / (_TOKENS + 0.5))  # as if positions went on for ever
    mistakes = [
        (
            before(endless, size[0] / 10),
            "That is for a text without end: after position 1000 nobody listens.",
        ),
        (
            before(size**2, size[0] ** 2 / 10),
            "There the SQUARE of the size is a tenth: how small is the square when the size is?",
        ),
        (before(together, together[0] / 10), "That is for messages that agree: for `faint` they do not."),
        (before(size, 0.1), "There the size is 0.1: a tenth of what token 1 gets is asked for."),
        (10, "That is one weight, 1/i, as if only ONE position saw each token: several do."),
        (11, "That is one weight, 1/i, as if only ONE position saw each token: several do."),
        (100, "There 1/√j is a tenth: token 1 gets more than 1, and positions end at 1000."),
        (101, "There 1/√j is a tenth: token 1 gets more than 1, and positions end at 1000."),
    ]
    compare(
        token,
        before(size, size[0] / 10),
        mistakes,
        f"Token {token} is not it, though `first` is right: which positions see token j, and with "
        f"which weights?",
        0.02,
    )
    found = as_number(agreed, "agreed")
    mistakes = [
        (size[0], "That is for messages that point every which way: what is longer, a sum of equal vectors?"),
        (
            math.log(_TOKENS),
            "Near: an integral stands there in place of a sum, and the first terms make the difference.",
        ),
        (1.0, "Without a mask each token would get that: who sees token 1 here, and with which weights?"),
        (
            float(_TOKENS),
            "That is what ALL tokens get together: token 1 has a share of each position's weight.",
        ),
        (
            math.sqrt(together[0]),
            "A root too many: the lengths of equal vectors add up as they are.",
        ),
        (
            together[0] / _TOKENS,
            "That is the mean over positions: a gradient is a SUM over all who see the token.",
        ),
    ]
    compare(
        found,
        together[0],
        mistakes,
        f"{found:.3g} is not what token 1 gets from equal messages: add up its weights, position by "
        f"position.",
        0.02,
    )


# --- Who tells the query? ----------------------------------------------------------------------------------


def _parts(
    x: np.ndarray,
    w_query: np.ndarray,
    w_key: np.ndarray,
    w_value: np.ndarray,
    to_outputs: np.ndarray,
    *,
    root: float | None = None,
    see: Callable = np.tril,
    axis: int = 1,
    back: Callable = _back,
) -> tuple[np.ndarray, ...]:
    """Queries, keys, weights and gradients by the logits; `root` divides logits, `see` is the mask."""
    query, key, value = (x @ weight.T for weight in (w_query, w_key, w_value))
    root = math.sqrt(len(w_query)) if root is None else root
    seen = see(np.ones((len(x), len(x)), dtype=bool))
    p = _softmax(np.where(seen, query @ key.T / root, -np.inf), axis)
    to_logits = np.nan_to_num(back(p, to_outputs @ value.T))
    return query, key, p, to_logits


def _to_query(*case: np.ndarray, after: float | None = None, **step: object) -> np.ndarray:
    """The gradient by w_query (d_k, d_model), with one step replaced; `after` divides on the way back."""
    x, w_query = case[:2]
    _, key, _, to_logits = _parts(*case, **step)
    return (to_logits @ key).T @ x / (math.sqrt(len(w_query)) if after is None else after)


@exercise(
    4,
    praise="values say what a look is worth, keys say where it would go, and the query learns from both.",
    hint=(
        "Go back step by step, and write the shape of each gradient beside it: outputs, weights, "
        "logits, queries, "
        "w_query. A weight multiplies one value, so its gradient is that value times the gradient of the "
        "output. How does a logit depend on its query? And the root of d_k has one place on the way "
        "forward: where "
        "does it come by on the way back?"
    ),
)
def query_gradient(gradient: Callable, seed: int) -> None:
    """The gradient by w_query of causal attention with one head."""
    rng = np.random.default_rng([83, seed])
    cases = []
    for tokens, d_model, d_k in ((6, 5, 3), (4, 7, 6)):
        x, asked = rng.normal(size=(tokens, d_model)), rng.normal(size=(tokens, d_k))
        weights = rng.normal(size=(3, d_k, d_model)) * (1.5 / math.sqrt(d_model))
        cases.append((x, *weights, asked))
    answers = [call(gradient, *case) for case in cases]
    for answer, (x, w_query, *_) in zip(answers, cases, strict=True):
        shape = getattr(answer, "shape", None)
        if shape == w_query.T.shape:
            raise Mistake("That has the shape of w_query transposed: PyTorch stores (d_k, d_model).")
        if shape == (len(x), len(w_query)):
            raise Mistake("That is one row per token, a gradient by the QUERIES: one step more, to w_query.")
    found = _flat(
        [
            as_array(answer, case[1].shape, "The gradient by w_query")
            for answer, case in zip(answers, cases, strict=True)
        ]
    )
    if not np.isfinite(found).all():
        raise Mistake("Your gradient has NaN or inf in it: does a row of your mask leave no token at all?")

    def each(**step: object) -> np.ndarray:
        return _flat([_to_query(*case, **step) for case in cases])

    def to_key(*case: np.ndarray) -> np.ndarray:
        query, _, _, to_logits = _parts(*case)
        return (to_logits.T @ query).T @ case[0] / math.sqrt(len(case[1]))

    def to_value(*case: np.ndarray) -> np.ndarray:
        return (_parts(*case)[2].T @ case[-1]).T @ case[0]

    right = each()
    mistakes = [
        (
            each(after=1.0),
            "On the way forward the logits are divided by √d_k; on the way back your gradient passes them "
            "undivided.",
        ),
        (
            each(root=1.0, after=1.0),
            "The logits are not divided by √d_k, neither on the way forward nor back.",
        ),
        (
            each(root=1.0),
            "On the way back √d_k is there; on the way forward your logits are not divided.",
        ),
        (
            _flat([_to_query(*case, root=len(case[1]), after=len(case[1])) for case in cases]),
            "That divides by d_k: a root is missing.",
        ),
        (
            each(see=np.ones_like),
            "Tokens look at later ones: the attention is causal.",
        ),
        (each(see=np.triu), "The mask is the wrong way round: a token sees the EARLIER ones, and itself."),
        (
            each(see=lambda ones: np.tril(ones, -1)),
            "Your tokens do not see themselves: each looks at the tokens up to and INCLUDING itself.",
        ),
        (
            each(axis=0),
            "Your softmax runs over the queries: each query shares its attention out among the keys.",
        ),
        (
            each(back=lambda p, g: p * g),
            "From weights to logits something is missing: a logit that rises takes weight from all others.",
        ),
        (
            each(back=lambda p, g: p * (1 - p) * g),
            "From weights to logits you have the diagonal of the Jacobian only: a logit changes the other "
            "weights, too.",
        ),
        (
            each(back=lambda p, g: g),
            "The softmax is left out on the way back: the gradient of a weight is not yet that of a logit.",
        ),
        (_flat([to_key(*case) for case in cases]), "That is the gradient by w_key."),
        (_flat([to_value(*case) for case in cases]), "That is the gradient by w_value."),
        (
            _flat([_to_query(*case) / len(case[0]) for case in cases]),
            "That is a mean over tokens: the loss is what it is, and each token ADDS its part.",
        ),
        (-right, "The sign is turned round: this is a gradient, not yet a step."),
    ]
    otherwise = (
        "It has the right shape and is not the gradient: compare outputs, weights, logits and queries with "
        "autograd, one after the other, and see where the first difference is."
    )
    compare(found, right, mistakes, otherwise, 1e-6)


# --- How many blocks until all tokens are one? -------------------------------------------------------------


def _fallen(depth: float, power: float) -> float:
    """The logarithm of what 1 - cosine is divided by in `depth` blocks, of which each divides by 1 + s^2."""
    return depth * math.log1p((2 * depth) ** (-2 * power))


def _largest(law: Callable, fall: float, power: float) -> float:
    """The largest depth, up to 1e9, at which the law is not above log(fall); inf if that is not found."""
    low, high = 0, 1
    while law(high, power) <= math.log(fall):
        low, high = high, 2 * high
        if high > 1e9:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if law(middle, power) <= math.log(fall) else (low, middle)
    return low


def _budgets(rng: np.random.Generator) -> list[tuple[float, float]]:
    """(fall, power), each between two whole depths, and not half-way: rounding decides for no law."""
    depths = rng.integers([4, 20, 30, 40], [9, 30, 60, 90])
    powers = [0.0, 0.125, 0.25, float(rng.uniform(0.28, 0.36))]
    cases = list(zip(depths.tolist(), powers, strict=True)) + [(int(rng.integers(2, 5)), 0.5)]
    middles = [0.63 * _fallen(depth, power) + 0.37 * _fallen(depth + 1, power) for depth, power in cases]
    return [(math.exp(middle), power) for middle, (_, power) in zip(middles, cases, strict=True)]


@exercise(
    5,
    praise="one common vector per block, an exponential at power 0, one of a root at ¼, and a ceiling at ½.",
    hint=(
        "Take two tokens as a common part and a small difference. In one branch, what becomes of "
        "the mean square of "
        "the stream, and what of the mean square of the difference? 1 − cosine is the second over "
        "the first (but for "
        "a factor that stays). Do it for attention, then for the feed-forward network. Then let L "
        "be very large "
        "in your formula for power ½: does it go on falling?"
    ),
)
def collapse_depth(deepest: Callable, seed: int) -> None:
    """The depth at which 1 - cosine has fallen by a given factor, for s = (2 depth)^-power."""
    rng = np.random.default_rng([85, seed])
    cases = _budgets(rng)
    what = "The largest depth"
    found = []
    for case in cases:
        depth = as_number(call(deepest, *case), what)
        if math.isfinite(depth) and depth != round(depth):
            raise Mistake(
                f"A network has no {depth:.3g} blocks: a whole number is asked for, the largest that will do."
            )
        found.append(depth)

    def each(law: Callable) -> np.ndarray:
        return np.array([_largest(law, *case) for case in cases])

    right = each(_fallen)
    mistakes = [
        (
            right + 1,
            "One too many: at this depth 1 − cosine has already fallen too far.",
        ),
        (right - 1, "One too few: a block more would still do."),
        (
            each(lambda n, power: _fallen(n, power) + n * math.log1p(0.32 * (2 * n) ** (-2 * power))),
            "Your feed-forward networks bring tokens together as well: what they add differs "
            "between tokens by as "
            "much as the stream does.",
        ),
        (
            each(lambda n, power: n * math.log1p(1.32 * (2 * n) ** (-2 * power))),
            "Your feed-forward networks add a common vector: what they add differs between tokens "
            "by as much "
            "as the stream does.",
        ),
        (
            each(lambda n, power: 2 * _fallen(n, power)),
            "Each block is counted twice, for its two branches: which of them adds the same vector "
            "to all tokens?",
        ),
        (
            each(lambda n, power: n * math.log1p((2 * n) ** -power)),
            "What is added has mean square s², and you count s.",
        ),
        (
            each(lambda n, power: 2 * n * math.log1p((2 * n) ** -power)),
            "There the lengths are added: what stands at a right angle adds its SQUARE.",
        ),
        (
            each(lambda n, power: n * (2 * n) ** (-2 * power)),
            "A logarithm of 1 + s² is taken for s²: with these depths that makes a difference.",
        ),
        (
            each(lambda n, power: 0.5 * _fallen(n, power)),
            "That is how the DIFFERENCE of two tokens falls: 1 − cosine is its square (but for a factor).",
        ),
        (each(lambda n, power: n * math.log(2)), "As if s were 1, at any power: the branches are scaled."),
        (
            each(lambda n, power: n * math.log1p(n ** (-2 * power))),
            "As if s were L to that power: there are 2L branches, and the scale counts them all.",
        ),
        (
            each(lambda n, power: sum(math.log1p((2 * k) ** (-2 * power)) for k in range(1, int(n) + 1))),
            "Your scale changes from block to block: all branches of one network have the same, "
            "given by its depth.",
        ),
        (
            each(lambda n, power: math.log1p(n * (2 * n) ** (-2 * power))),
            "That is how a Pre-LN stream dilutes its differences: here a norm comes after each branch, and "
            "factors multiply.",
        ),
    ]
    worst = int(np.argmax(np.array(found) != right))
    fall, power = cases[worst]
    depth = found[worst]
    otherwise = f"For fall {fall:.3g} and power {power:.3g} it is not {depth:.3g}: "
    if 1 <= depth < 1e9:
        otherwise += (
            f"1 − cosine would fall by {math.exp(min(_fallen(depth, power), 99)):.3g} in so many blocks."
        )
    else:
        otherwise += "what becomes of 1 − cosine in one block, and in two?"
    compare(found, right, mistakes, otherwise, 1e-9)
    for fall in (float(rng.uniform(2, 5)), 1e6):
        depth = as_number(call(deepest, fall, 0.5), what)
        if depth != math.inf:
            raise Mistake(
                f"For fall {fall:.3g} and power 0.5 it is not {depth:.3g}: how far can 1 − cosine "
                f"fall at most, with "
                "more and more blocks?"
            )
