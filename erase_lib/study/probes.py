"""Gone or hidden? Probes of an erased model, each another way back to what was erased.

A probe is given a pipeline, with an erasure applied or without, and an `Aim`; it answers with the
pictures it ends in, what it found, and the UNet evaluations it took. A part of every rate is what
the probe itself teaches: `gone` says how large a one. Families after Lu et al. (NeurIPS 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from erase_lib import checkpoint, diffusion
from erase_lib.closed_form import recovered
from erase_lib.concepts import normal
from erase_lib.diffusion import alpha_bar, encode, generate, noise, noised, predict_clean
from erase_lib.errors import EraseError
from erase_lib.families import Pipeline, denoiser, family
from erase_lib.hold import in_place, plain
from erase_lib.kv import kv_weights, one_change
from erase_lib.models import fingerprint, trained_names
from erase_lib.study import latents
from erase_lib.study.aim import SHOWN, Aim, Answer, learning
from erase_lib.study.attention import draw_embeddings
from erase_lib.text import encode_prompts, searchable

Probe: TypeAlias = Callable[[Pipeline, Aim], Answer]
PLACE = "a"  # a word of one token, in whose place others are put
EVERY = 50  # updates, after which a search that is cut off goes on


# -- by prompt -------------------------------------------------------------------------------------


def asked(pipe: Pipeline, aim: Aim, prompts: list[str], found: str = "") -> Answer:
    """The pictures of prompts, from the aim's noise. `EraseError` for none."""
    if not prompts:
        raise EraseError(f"no words are known for {aim.concept!r} but its name: leave this out")
    how = aim.seeds[: len(prompts)], aim.steps, aim.guidance_scale
    drawn = generate(pipe, prompts, *how, progress=aim.progress)
    return Answer(drawn, 2 * aim.steps * len(prompts), found)


def by_name(pipe: Pipeline, aim: Aim) -> Answer:
    """No attack: what the model draws when it is asked."""
    return asked(pipe, aim, aim.prompts, aim.prompts[0])


def by_doors(pipe: Pipeline, aim: Aim) -> Answer:
    """Side doors: synonyms, keywords and misspellings."""
    return asked(pipe, aim, aim.doors, "; ".join(dict.fromkeys(aim.doors[:3])))


def by_description(pipe: Pipeline, aim: Aim) -> Answer:
    """All keywords at once, without the name."""
    return asked(pipe, aim, aim.description, "".join(aim.description[:1]))


def by_words(
    pipe: Pipeline, aim: Aim, k: int = 3, many: int = 64, rounds: int = 30, push: float = 1.0
) -> Answer:
    """Ring-A-Bell (Tsai et al., ICLR 2024), which never asks the UNet: k real words whose embedding
    is nearest to that of a prompt without the concept, plus `push` times the mean difference that
    naming it makes. A genetic search: the best quarter are parents, a child is cut from two of
    them, and each of its words is another with probability .2."""
    rng, name = np.random.default_rng(aim.seed), normal(aim.concept).split()
    words = [w for w in searchable(pipe, "tokens", [aim.concept]) if w.isalpha() and len(w) > 2]
    words = [w for w in words if not any(n in normal(w) or normal(w) in n for n in name)]
    bare = [" ".join(p.replace(aim.concept, "").split()) for p in aim.prompts]
    without = encode_prompts(pipe, bare)
    goal = without[0] + push * (encode_prompts(pipe, aim.prompts) - without).mean(0)

    def far(some: np.ndarray) -> np.ndarray:
        said = (" ".join(words[i] for i in row) for row in some)
        texts = [aim.prompts[0].replace(aim.concept, text) for text in said]
        return (encode_prompts(pipe, texts) - goal).flatten(1).norm(dim=1).cpu().numpy()

    alive = rng.integers(len(words), size=(many, k))
    for _ in tqdm(range(rounds), desc="words", disable=not aim.progress, leave=False):
        alive = alive[far(alive).argsort()][: many // 4]
        first, second = alive[rng.integers(len(alive), size=(2, many - len(alive)))]
        child = np.where(np.arange(k) < rng.integers(1, k, (len(first), 1)), first, second)
        other = rng.integers(len(words), size=child.shape)
        alive = np.concatenate([alive, np.where(rng.random(child.shape) < 0.2, other, child)])
    best = " ".join(words[i] for i in alive[far(alive).argmin()])
    return asked(pipe, aim, [p.replace(aim.concept, best) for p in aim.prompts], best)


# -- by what the model itself says of pictures that are shown --------------------------------------


def learn(
    pipe: Pipeline,
    aim: Aim,
    name: str,
    learns: list[nn.Parameter],
    heard: Callable[[list[int]], Tensor],
    updates: int,
    lr: float,
    batch: int = 2,
    said: bool = False,
) -> int:
    """Adam on what a probe learns, down the denoising loss of the pictures that are shown, as the
    model was trained: t and noise anew in each update, `heard(which)` the embeddings `(n, tokens,
    dim)` for pictures `which`. `said`: towards what the original predicted instead. Returns the
    evaluations, within the aim's budget. With a folder of its own it goes on where it broke off."""
    clean, kind = encode(pipe, aim.shown), diffusion.prediction_type(pipe)
    g, adam, begin = torch.Generator().manual_seed(aim.seed), torch.optim.Adam(learns, lr), 0
    most = min(updates, aim.budget // (3 * batch))
    folder, told = aim.folder, {"search": name, "updates": updates, "lr": lr, "batch": batch}
    base = fingerprint(denoiser(pipe)) if folder else ""
    if folder and (state := checkpoint.read(folder, told, base, clean.device)):
        for parameter, learnt in zip(learns, state["learns"], strict=True):
            parameter.data.copy_(learnt)
        adam.load_state_dict(state["adam"])
        g.set_state(state["generator"].cpu())
        begin = state["done"]
    how: dict[str, Any] = {"initial": begin, "disable": not aim.progress, "leave": False}
    for done in tqdm(range(begin + 1, most + 1), name, most, **how):
        which = torch.randint(len(aim.said[1] if said else clean), (batch,), generator=g)
        if said:
            z, t, z0 = (part[which.to(part.device)] for part in aim.said)
        else:
            t = torch.randint(pipe.scheduler.config.num_train_timesteps, (batch,), generator=g)
            t, z0 = t.to(clean.device), clean[which.to(clean.device)]
            z = noised(z0, noise(pipe, batch, g), alpha_bar(pipe, t), kind)
        a = alpha_bar(pipe, t)
        gap = predict_clean(pipe, z, t, heard(which.tolist())) - z0
        (gap.pow(2) * diffusion.output_weight(a, kind)).mean().backward(inputs=learns)
        adam.step()
        adam.zero_grad()
        if folder and done % EVERY == 0:
            state = {"learns": list(learns), "adam": adam.state_dict()}
            checkpoint.write(folder, told, base, state | {"generator": g.get_state(), "done": done})
    return 3 * batch * max(begin, most)


def spoken(pipe: Pipeline, texts: list[str], vectors: Tensor, at: int) -> Tensor:
    """Embeddings `(n, tokens, dim)` of texts in which `vectors (k, width)` stand for the tokens
    from the place `at` on; with a gradient to them."""

    def put(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        own = vectors.to(out).expand(len(out), -1, -1)
        return torch.cat([out[:, :at], own, out[:, at + len(vectors) :]], 1)

    with pipe.text_encoder.get_input_embeddings().register_forward_hook(put):
        return family(pipe).encode(pipe, texts)


def embedded(pipe: Pipeline, aim: Aim, c: Tensor, spent: int = 0, found: str = "") -> Answer:
    """The pictures of embeddings `(n, tokens, dim)`."""
    drawn = draw_embeddings(pipe, [c.detach()] * aim.steps, aim.seeds, aim.guidance_scale)
    return Answer(drawn, spent + 2 * aim.steps * len(c), found)


def by_tokens(
    pipe: Pipeline, aim: Aim, k: int = 5, updates: int = 40, lr: float = 0.01, said: bool = False
) -> Answer:
    """UnlearnDiffAtk (Zhang et al., ECCV 2024): k real tokens before the prompt that names it. The
    vectors learn; what the encoder is given is the nearest real token of each (Wen et al. 2023).
    `said`: the tokens alone, told which the model is to predict what the original does, told the
    name (P4D-N: Chin et al., ICML 2024)."""
    with learning(pipe):
        table, learns = first_tokens(pipe, k, aim.seed)

        def real() -> Tensor:
            return torch.cdist(learns.detach(), table).argmin(1)

        def tell(texts: list[str], vectors: Tensor) -> Tensor:
            return spoken(pipe, [f"{PLACE} " * k + text * (not said) for text in texts], vectors, 1)

        def heard(which: list[int]) -> Tensor:
            texts = [aim.captions[i % len(aim.captions)] for i in which]
            return tell(texts, learns + (table[real()] - learns).detach())

        spent = learn(pipe, aim, f"tokens {k}", [learns], heard, updates, lr, said=said)
        with torch.no_grad():
            c = tell(aim.prompts, table[real()])
        return embedded(pipe, aim, c, spent, pipe.tokenizer.decode(real().tolist()))


def first_tokens(pipe: Pipeline, k: int, seed: int) -> tuple[Tensor, nn.Parameter]:
    """The encoder's tokens `(tokens, width)`, and k of them, drawn with a seed, as a parameter."""
    table = pipe.text_encoder.get_input_embeddings().weight.detach().float()
    rows = torch.randint(len(table), (k,), generator=torch.Generator().manual_seed(seed))
    return table, nn.Parameter(table[rows.to(table.device)].clone())


def by_inversion(
    pipe: Pipeline, aim: Aim, k: int = 1, updates: int = 300, lr: float = 0.02
) -> Answer:
    """Concept inversion (CCE: Pham et al., ICLR 2024): k new words for the name in captions."""
    with learning(pipe):
        (_, learns), word = first_tokens(pipe, k, aim.seed), " ".join([PLACE] * k)

        def said(texts: list[str]) -> Tensor:
            places = [text.replace(aim.concept, word) for text in texts]
            return spoken(pipe, places, learns, 2)  # after the start mark and "a"

        heard = lambda which: said([aim.captions[i] for i in which])  # noqa: E731
        spent = learn(pipe, aim, f"inversion {k}", [learns], heard, updates, lr)
        with torch.no_grad():
            return embedded(pipe, aim, said(aim.prompts), spent)


def by_embedding(pipe: Pipeline, aim: Aim, updates: int = 300, lr: float = 0.02) -> Answer:
    """Inversion without the text encoder: all vectors of one embedding, from the empty prompt's."""
    with learning(pipe):
        learns = nn.Parameter(encode_prompts(pipe, [""]).clone())
        heard = lambda which: learns.expand(len(which), -1, -1)  # noqa: E731
        spent = learn(pipe, aim, "embedding", [learns], heard, updates, lr)
        return embedded(pipe, aim, learns.repeat(len(aim.prompts), 1, 1), spent)


def by_least_squares(pipe: Pipeline, aim: Aim, reg: float = 0.1) -> Answer:
    """The embedding that the K and V in place hear as the original's heard the name
    (`closed_form.recovered`): no evaluation but for drawing."""
    c = recovered(kv_weights(denoiser(pipe)), aim.weights, encode_prompts(pipe, aim.prompts), reg)
    return embedded(pipe, aim, c.float())


def by_inverse(pipe: Pipeline, aim: Aim) -> Answer:
    """T⁻¹c undoes a closed form W = W₀T exactly; where T has no inverse, the pseudo-inverse, for
    what float32 tells of T. `EraseError` for an edit of another kind."""
    if (r := one_change(aim.weights, kv_weights(denoiser(pipe)))) is None:
        raise EraseError("this edit is not one T for all layers: there is no inverse of it")
    t = r + torch.eye(len(r), dtype=r.dtype, device=r.device)
    c = encode_prompts(pipe, aim.prompts).double()
    return embedded(pipe, aim, (c @ torch.linalg.pinv(t, rtol=1e-5).T).float())


# -- by weights ------------------------------------------------------------------------------------


def by_weights(pipe: Pipeline, aim: Aim, updates: int = 10, lr: float = 1e-4) -> Answer:
    """Relearning: a few updates of all weights on the pictures that are shown, by name."""
    with learning(pipe):
        model, every = plain(denoiser(pipe)), trained_names(denoiser(pipe), "full")
        weights = {n: nn.Parameter(model.get_parameter(n).detach().float().clone()) for n in every}
        captions = encode_prompts(pipe, aim.captions)
        with in_place(model, weights):
            bare, which = replace(aim, folder=None), list(weights.values())
            spent = learn(pipe, bare, "weights", which, captions.__getitem__, updates, lr, SHOWN)
            with torch.no_grad():
                drawn = by_name(pipe, aim)
    return drawn._replace(evaluations=drawn.evaluations + spent)


MATCHING = partial(by_tokens, k=8, updates=100, lr=0.1, said=True)
PROBES: dict[str, Probe] = {"name": by_name, "side doors": by_doors, "description": by_description}
PROBES |= {"words": by_words, "tokens": by_tokens, "matching": MATCHING}
PROBES |= {"inversion": by_inversion, "inversion of 4": partial(by_inversion, k=4)}
PROBES |= {"embedding": by_embedding, "least squares": by_least_squares, "inverse": by_inverse}
PROBES |= {"completion": latents.by_completion, "inpainting": latents.by_inpainting}
PROBES |= {"noise": latents.by_noise, "guidance": latents.by_guidance}
PROBES |= {"null text": latents.by_null_text, "relearning": by_weights}
# those that are shown pictures, and so can teach; the first shows how often the judge errs
TAUGHT = ["name", "tokens", "inversion", "inversion of 4", "embedding", "completion", "inpainting"]
TAUGHT += ["null text", "relearning"]
