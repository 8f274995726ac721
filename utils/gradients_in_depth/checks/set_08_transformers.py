"""The checks of set 08, Transformers."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gradients_in_depth.checks.common import (
    Case,
    Mistake,
    Trial,
    as_array,
    as_number,
    exercise,
    number,
    whole_number,
)


def _softmax(logits: np.ndarray, axis: int | None = 1) -> np.ndarray:
    """Weights that sum to 1 along `axis`; a masked logit is -inf, and a line of nothing else gives NaN."""
    with np.errstate(all="ignore"):
        p = np.exp(logits - logits.max(axis=axis, keepdims=True))
        return p / p.sum(axis=axis, keepdims=True)


def _back(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Through the softmax of each row: (queries, keys)."""
    return p * (g - (p * g).sum(axis=1, keepdims=True))


# --- Better than the mean ----------------------------------------------------------------------------------


def _attention(rng: np.random.Generator, scale: float, masked: bool, queries: int, keys: int) -> Case:
    """Logits and the gradients by their weights, both (queries, keys)."""
    logits = scale * rng.normal(size=(queries, keys))
    if masked:
        hidden = rng.random((queries, keys)) < 0.4
        hidden[np.arange(queries), rng.integers(keys, size=queries)] = False
        hidden[0, 0], hidden[0, 1] = True, False
        logits[hidden] = -np.inf
    return logits, rng.normal(size=(queries, keys)) + 0.5


def _extreme_attention(rng: np.random.Generator, scale: float, masked: bool) -> list[Case]:
    logits, g = _attention(rng, scale, masked, 8, 6)
    if masked and scale > 2:
        logits[0] = [-np.inf, -1800.0, -1790.0, -np.inf, -1795.0, -np.inf]  # exp turns all of them to 0
    else:
        logits[1, :2] = np.clip(logits[1, :2], -3, 3) + (1900.0 if scale > 2 else 0.0)
    return [(logits, g)]


def _read_messages(result: object, logits: np.ndarray, g: np.ndarray) -> np.ndarray:
    return as_array(result, logits.shape, "The gradient by the logits")


def _read_extreme_messages(result: object, logits: np.ndarray, g: np.ndarray) -> np.ndarray:
    messages = _read_messages(result, logits, g)
    if not np.isfinite(messages).all():
        raise Mistake(
            "With large logits your function finds NaN or inf: what are exp(1900), and a sum of nothing but "
            "exp(−1800)?"
            if np.abs(logits[np.isfinite(logits)]).max() > 100
            else "With a masked key your function finds NaN: −∞ times 0, or −∞ less −∞, is no number."
        )
    if (np.abs(messages[np.isneginf(logits)]) > 1e-12).any():
        raise Mistake("A masked key gets a gradient: it has no weight, whatever its logit does.")
    return messages


def _from_weights(step: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """What a step back makes of the weights p and their gradients g."""
    return lambda logits, g: step(_softmax(logits), g)


def _masked_late(logits: np.ndarray, g: np.ndarray) -> np.ndarray:
    hidden = np.isneginf(logits)
    return _back(_softmax(np.where(hidden, 0.0, logits)), g) * ~hidden


_PLAIN = Trial(
    cases=lambda rng: [_attention(rng, 1.5, False, *shape) for shape in ((3, 5), (6, 4), (4, 4))],
    read=_read_messages,
    right=_from_weights(_back),
    mistakes={
        "Those are the weights themselves: the way BACK is asked for.": _from_weights(lambda p, g: p),
        "Each weight times its own gradient: a logit that rises takes weight from all other keys of its "
        "row.": _from_weights(lambda p, g: p * g),
        "That is the diagonal of the Jacobian alone, as for a sigmoid: a logit changes the OTHER weights as "
        "well.": _from_weights(lambda p, g: p * (1 - p) * g),
        "The mean that is taken off counts all keys alike: how much does each count for this query?": (
            _from_weights(lambda p, g: p * (g - g.mean(axis=1, keepdims=True)))
        ),
        "The comparison with the mean is there: but does a key with next to no weight get it in full?": (
            _from_weights(lambda p, g: g - (p * g).sum(axis=1, keepdims=True))
        ),
        "What is taken off is summed over ALL queries: each row has a softmax of its own.": (
            _from_weights(lambda p, g: p * (g - (p * g).sum()))
        ),
        "What is taken off is summed over the queries of one key: each ROW has a softmax of its own.": (
            _from_weights(lambda p, g: p * (g - (p * g).sum(axis=0)))
        ),
        "The sign is turned round: a key that does better than the mean has a POSITIVE gradient.": (
            _from_weights(lambda p, g: -_back(p, g))
        ),
        "That softmax runs over the queries: one query shares its attention out among the KEYS.": (
            lambda logits, g: _back(_softmax(logits.T), g.T).T
        ),
        "That softmax runs over the whole array: each row has weights of its own, which sum to 1.": (
            lambda logits, g: _back(_softmax(logits, axis=None), g)
        ),
    },
    otherwise="Small logits without a mask are not right yet: take one row of two keys by hand, and compare "
    "it with autograd.",
)
_LATE: dict[str, Callable] = {
    "The mask comes too late: masked keys have taken weight away from the others.": _masked_late
}
_CUT: dict[str, Callable] = {
    "Large logits are cut off: two that are cut get equal weights, which they should not.": (
        lambda logits, g: _back(_softmax(np.clip(logits, -500, 500)), g)
    )
}


def _extreme(scale: float, masked: bool, mistakes: dict[str, Callable]) -> Trial:
    return Trial(
        cases=lambda rng: _extreme_attention(rng, scale, masked),
        read=_read_extreme_messages,
        right=_from_weights(_back),
        mistakes=mistakes,
        otherwise=f"Without a mask small logits are right, but {'masked keys' if masked else 'large logits'} "
        "are not: only differences within a row count, and a masked key takes no part.",
    )


@exercise(
    2,
    praise="each logit hears by how much its key beats the mean, and a masked one hears nothing.",
    hint=(
        "The lesson has the formula for one query: what a weight is worth, less what the query gets already, "
        "times the weight. Which sum belongs to ONE row? And a softmax stays what it is when the same number "
        "is taken off all logits of a row: which number makes exp harmless?"
    ),
    stream=81,
    trials=[
        _PLAIN,
        _extreme(1.5, True, _LATE),
        _extreme(700.0, False, _CUT),
        _extreme(700.0, True, _LATE),
    ],
)
def logit_messages(messages: Callable, seed: int) -> None:
    """The gradient by the logits of a softmax over keys, for all queries, with masks and large logits."""


# --- The first of a thousand -------------------------------------------------------------------------------

_TOKENS = 1000
_WEIGHTS = 1 / np.arange(1, _TOKENS + 1)
_SIZE = np.sqrt(np.cumsum(_WEIGHTS[::-1] ** 2)[::-1])
_TOGETHER = np.cumsum(_WEIGHTS[::-1])[::-1]


def _below(values: np.ndarray, limit: float) -> int:
    """The first token whose value is below the limit."""
    return int(np.argmax(values < limit)) + 1


_FIRST = Trial(
    read=number("first"),
    right=_SIZE[0],
    mistakes={
        "That is the mean SQUARE of the length for token 1: its root is asked for.": _SIZE[0] ** 2,
        "As if all messages pointed the same way: for `first` they point every which way.": _TOGETHER[0],
        "That is attention without a mask, as in the lesson: here position i shares its attention out among "
        "i tokens.": 1 / math.sqrt(_TOKENS),
        "That is what the LAST position alone sends to token 1: all the others see it, too.": 1 / _TOKENS,
        "That is from position 1 alone: all the others see token 1, too.": 1.0,
        "As if every position looked at token 1 with weight 1: position i has 1/i for it.": (
            math.sqrt(_TOKENS)
        ),
        "The weights are added, and a root is taken after that: it is the SQUARES of lengths that add up.": (
            math.sqrt(_TOGETHER[0])
        ),
    },
    otherwise=lambda _, results, right: (
        f"{results[0]:.3g} is not the size for token 1: which weight has it in position i, and how do "
        "lengths add up that point every which way?"
    ),
    tolerance=0.02,
)
_FAINT = Trial(
    part=1,
    read=whole_number("faint"),
    impossible={
        f"faint is the number of a token, from 1 to {_TOKENS}.": lambda results: results[0] > _TOKENS
    },
    right=_below(_SIZE, _SIZE[0] / 10),
    mistakes={
        "That is for a text without end: after position 1000 nobody listens.": (
            _below(np.sqrt(_SIZE**2 + 1 / (_TOKENS + 0.5)), _SIZE[0] / 10)
        ),
        "There the SQUARE of the size is a tenth: how small is the square when the size is?": (
            _below(_SIZE**2, _SIZE[0] ** 2 / 10)
        ),
        "That is for messages that agree: for `faint` they do not.": _below(_TOGETHER, _TOGETHER[0] / 10),
        "There the size is 0.1: a tenth of what token 1 gets is asked for.": _below(_SIZE, 0.1),
        "That is one weight, 1/i, as if only ONE position saw each token: several do.": (10, 11),
        "There 1/√j is a tenth: token 1 gets more than 1, and positions end at 1000.": (100, 101),
    },
    otherwise=lambda _, results, right: (
        f"Token {results[0]:.0f} is not it, though `first` is right: which positions see token j, and with "
        "which weights?"
    ),
    tolerance=0.02,
)
_AGREED = Trial(
    part=2,
    read=number("agreed"),
    right=_TOGETHER[0],
    mistakes={
        "That is for messages that point every which way: what is longer, a sum of equal vectors?": _SIZE[0],
        "Near: an integral stands there in place of a sum, and the first terms make the difference.": (
            math.log(_TOKENS)
        ),
        "Without a mask each token would get that: who sees token 1 here, and with which weights?": 1.0,
        "That is what ALL tokens get together: token 1 has a share of each position's weight.": _TOKENS,
        "A root too many: the lengths of equal vectors add up as they are.": math.sqrt(_TOGETHER[0]),
        "That is the mean over positions: a gradient is a SUM over all who see the token.": (
            _TOGETHER[0] / _TOKENS
        ),
    },
    otherwise=lambda _, results, right: (
        f"{results[0]:.3g} is not what token 1 gets from equal messages: add up its weights, position by "
        "position."
    ),
    tolerance=0.02,
)


@exercise(
    3,
    praise="the first token is heard by all, and how loud that is depends on whether they agree.",
    hint=(
        "With which weight does position i see token 1, for i = 1, 2, 3 and so on? What is the length of a "
        "sum of vectors that point every which way, and of one whose vectors are all the same? And which "
        "positions see token j at all?"
    ),
    trials=[_FIRST, _FAINT, _AGREED],
)
def causal_shares(first: float, faint: int, agreed: float, seed: int) -> None:
    """Gradients of the values under causal uniform attention over 1000 tokens."""


# --- Who tells the query? ----------------------------------------------------------------------------------


def _heads(rng: np.random.Generator) -> list[Case]:
    """x (tokens, d_model), three weights (d_k, d_model), and the gradients by the outputs (tokens, d_k)."""
    cases = []
    for tokens, d_model, d_k in ((6, 5, 3), (4, 7, 6)):
        x, to_outputs = rng.normal(size=(tokens, d_model)), rng.normal(size=(tokens, d_k))
        weights = rng.normal(size=(3, d_k, d_model)) * (1.5 / math.sqrt(d_model))
        cases.append((x, *weights, to_outputs))
    return cases


def _read_gradient(result: object, x: np.ndarray, w_query: np.ndarray, *_: np.ndarray) -> np.ndarray:
    shape = getattr(result, "shape", None)
    if shape == w_query.T.shape:
        raise Mistake("That has the shape of w_query transposed: PyTorch stores (d_k, d_model).")
    if shape == (len(x), len(w_query)):
        raise Mistake("That is one row per token, a gradient by the QUERIES: one step more, to w_query.")
    return as_array(result, w_query.shape, "The gradient by w_query")


def _parts(
    case: Case,
    *,
    root: Callable[[int], float] = math.sqrt,
    see: Callable[[np.ndarray], np.ndarray] = np.tril,
    soften: Callable[[np.ndarray], np.ndarray] = _softmax,
    back: Callable[..., np.ndarray] = _back,
) -> tuple[np.ndarray, ...]:
    """Queries, keys, weights and gradients by the logits; `root` divides logits, `see` is the mask."""
    x, *weights, to_outputs = case
    query, key, value = (x @ weight.T for weight in weights)
    seen = see(np.ones((len(x), len(x)), dtype=bool))
    p = soften(np.where(seen, query @ key.T / root(query.shape[1]), -np.inf))
    return query, key, p, np.nan_to_num(back(p, to_outputs @ value.T))


def _by_query(*case: np.ndarray, after: Callable = math.sqrt, **step: Callable) -> np.ndarray:
    """The gradient by w_query (d_k, d_model), with one step replaced; `after` divides on the way back."""
    _, key, _, to_logits = _parts(case, **step)
    return (to_logits @ key).T @ case[0] / after(len(case[1]))


def _by_key(*case: np.ndarray) -> np.ndarray:
    query, _, _, to_logits = _parts(case)
    return (to_logits.T @ query).T @ case[0] / math.sqrt(len(case[1]))


def _by_value(*case: np.ndarray) -> np.ndarray:
    return (_parts(case)[2].T @ case[-1]).T @ case[0]


_QUERY = Trial(
    cases=_heads,
    read=_read_gradient,
    impossible={
        "Your gradient has NaN or inf in it: does a row of your mask leave no token at all?": (
            lambda results: not np.isfinite(results).all()
        )
    },
    right=_by_query,
    mistakes={
        "On the way forward the logits are divided by √d_k; on the way back your gradient passes them "
        "undivided.": partial(_by_query, after=lambda d_k: 1),
        "The logits are not divided by √d_k, neither on the way forward nor back.": (
            partial(_by_query, root=lambda d_k: 1, after=lambda d_k: 1)
        ),
        "On the way back √d_k is there; on the way forward your logits are not divided.": (
            partial(_by_query, root=lambda d_k: 1)
        ),
        "That divides by d_k: a root is missing.": partial(_by_query, root=float, after=float),
        "Tokens look at later ones: the attention is causal.": partial(_by_query, see=np.ones_like),
        "The mask is the wrong way round: a token sees the EARLIER ones, and itself.": (
            partial(_by_query, see=np.triu)
        ),
        "Your tokens do not see themselves: each looks at the tokens up to and INCLUDING itself.": (
            partial(_by_query, see=partial(np.tril, k=-1))
        ),
        "Your softmax runs over the queries: each query shares its attention out among the keys.": (
            partial(_by_query, soften=partial(_softmax, axis=0))
        ),
        "From weights to logits something is missing: a logit that rises takes weight from all others.": (
            partial(_by_query, back=lambda p, g: p * g)
        ),
        "From weights to logits you have the diagonal of the Jacobian only: a logit changes the other "
        "weights, too.": partial(_by_query, back=lambda p, g: p * (1 - p) * g),
        "The softmax is left out on the way back: the gradient of a weight is not yet that of a logit.": (
            partial(_by_query, back=lambda p, g: g)
        ),
        "That is the gradient by w_key.": _by_key,
        "That is the gradient by w_value.": _by_value,
        "That is a mean over tokens: the loss is what it is, and each token ADDS its part.": (
            lambda *case: _by_query(*case) / len(case[0])
        ),
        "The sign is turned round: this is a gradient, not yet a step.": lambda *case: -_by_query(*case),
    },
    otherwise="It has the right shape and is not the gradient: compare outputs, weights, logits and queries "
    "with autograd, one after the other, and see where the first difference is.",
)


@exercise(
    4,
    praise="values say what a look is worth, keys say where it would go, and the query learns from both.",
    hint=(
        "Go back step by step, and write the shape of each gradient beside it: outputs, weights, logits, "
        "queries, w_query. A weight multiplies one value, so its gradient is that value times the gradient "
        "of the output. How does a logit depend on its query? And the root of d_k has one place on the way "
        "forward: where does it come by on the way back?"
    ),
    stream=83,
    trials=[_QUERY],
)
def query_gradient(gradient: Callable, seed: int) -> None:
    """The gradient by w_query of causal attention with one head."""


# --- How many blocks until all tokens are one? -------------------------------------------------------------


def fallen(depth: float, power: float) -> float:
    """The logarithm of what 1 - cosine is divided by in `depth` blocks, of which each divides by 1 + s^2."""
    return depth * math.log1p((2 * depth) ** (-2 * power))


def _budgets(rng: np.random.Generator) -> list[Case]:
    """(fall, power), each between two whole depths, and not half-way: rounding decides for no law."""
    depths = rng.integers([4, 20, 30, 40], [9, 30, 60, 90])
    powers = [0.0, 0.125, 0.25, float(rng.uniform(0.28, 0.36))]
    cases = list(zip(depths.tolist(), powers, strict=True)) + [(int(rng.integers(2, 5)), 0.5)]
    middles = [0.63 * fallen(depth, power) + 0.37 * fallen(depth + 1, power) for depth, power in cases]
    return [(math.exp(middle), power) for middle, (_, power) in zip(middles, cases, strict=True)]


def _read_depth(result: object, fall: float, power: float) -> float:
    depth = as_number(result, "The largest depth")
    if math.isfinite(depth) and depth != round(depth):
        raise Mistake(
            f"A network has no {depth:.3g} blocks: a whole number is asked for, the largest that will do."
        )
    return depth


def _by_law(law: Callable[[float, float], float], more: int = 0) -> Callable[[float, float], float]:
    """The largest depth, up to 1e9, at which the law is not above log(fall), or inf; and so many `more`."""

    def deepest(fall: float, power: float) -> float:
        low, high = 0, 1
        while law(high, power) <= math.log(fall):
            low, high = high, 2 * high
            if high > 1e9:
                return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if law(middle, power) <= math.log(fall) else (low, middle)
        return low + more

    return deepest


def _not_so_deep(cases: Sequence[Case], results: np.ndarray, right: np.ndarray) -> str:
    worst = int(np.argmax(results != right))
    (fall, power), depth = cases[worst], results[worst]
    if 1 <= depth < 1e9:
        falls = math.exp(min(fallen(depth, power), 99))
        what = f"1 − cosine would fall by {falls:.3g} in so many blocks."
    else:
        what = "what becomes of 1 − cosine in one block, and in two?"
    return f"For fall {fall:.3g} and power {power:.3g} it is not {depth:.3g}: {what}"


_DEPTH = Trial(
    cases=_budgets,
    read=_read_depth,
    right=_by_law(fallen),
    mistakes={
        "One too many: at this depth 1 − cosine has already fallen too far.": _by_law(fallen, more=1),
        "One too few: a block more would still do.": _by_law(fallen, more=-1),
        "Your feed-forward networks bring tokens together as well: what they add differs between tokens by "
        "as much as the stream does.": _by_law(
            lambda n, power: fallen(n, power) + n * math.log1p(0.32 * (2 * n) ** (-2 * power))
        ),
        "Your feed-forward networks add a common vector: what they add differs between tokens by as much as "
        "the stream does.": _by_law(lambda n, power: n * math.log1p(1.32 * (2 * n) ** (-2 * power))),
        "Each block is counted twice, for its two branches: which of them adds the same vector to all "
        "tokens?": _by_law(lambda n, power: 2 * fallen(n, power)),
        "What is added has mean square s², and you count s.": _by_law(
            lambda n, power: n * math.log1p((2 * n) ** -power)
        ),
        "There the lengths are added: what stands at a right angle adds its SQUARE.": _by_law(
            lambda n, power: 2 * n * math.log1p((2 * n) ** -power)
        ),
        "A logarithm of 1 + s² is taken for s²: with these depths that makes a difference.": _by_law(
            lambda n, power: n * (2 * n) ** (-2 * power)
        ),
        "That is how the DIFFERENCE of two tokens falls: 1 − cosine is its square (but for a factor).": (
            _by_law(lambda n, power: 0.5 * fallen(n, power))
        ),
        "As if s were 1, at any power: the branches are scaled.": _by_law(lambda n, power: n * math.log(2)),
        "As if s were L to that power: there are 2L branches, and the scale counts them all.": _by_law(
            lambda n, power: n * math.log1p(n ** (-2 * power))
        ),
        "Your scale changes from block to block: all branches of one network have the same, given by its "
        "depth.": _by_law(
            lambda n, power: sum(math.log1p((2 * k) ** (-2 * power)) for k in range(1, int(n) + 1))
        ),
        "That is how a Pre-LN stream dilutes its differences: here a norm comes after each branch, and "
        "factors multiply.": _by_law(lambda n, power: math.log1p(n * (2 * n) ** (-2 * power))),
    },
    otherwise=_not_so_deep,
    tolerance=1e-9,
)
_CEILING = Trial(
    cases=lambda rng: [(float(rng.uniform(2, 5)), 0.5), (1e6, 0.5)],
    one_by_one=True,
    read=number("The largest depth"),
    right=math.inf,
    mistakes={},
    otherwise=lambda cases, results, right: (
        f"For fall {cases[0][0]:.3g} and power 0.5 it is not {results[0]:.3g}: how far can 1 − cosine fall "
        "at most, with more and more blocks?"
    ),
)


@exercise(
    5,
    praise="one common vector per block, an exponential at power 0, one of a root at ¼, and a ceiling at ½.",
    hint=(
        "Take two tokens as a common part and a small difference. In one branch, what becomes of the mean "
        "square of the stream, and what of the mean square of the difference? 1 − cosine is the second over "
        "the first (but for a factor that stays). Do it for attention, then for the feed-forward network. "
        "Then let L be very large in your formula for power ½: does it go on falling?"
    ),
    stream=85,
    trials=[_DEPTH, _CEILING],
)
def collapse_depth(deepest: Callable, seed: int) -> None:
    """The depth at which 1 - cosine has fallen by a given factor, for s = (2 depth)^-power."""
