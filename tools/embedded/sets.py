"""The named sets: objects, styles, neutral prompts and unsafe themes, each a small CSV file with
its source.

Run `python -m tools.embedded.sets` (part of `make data`) after `embedded.pictures`, whose concept
list it reads.
The neutral prompts hold the empty string: read every file with `pandas.read_csv(path,
keep_default_na=False)`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from tools.embedded.pictures import NAMES, ROOT, SOURCES

CLDR = f"Unicode CLDR keywords in {NAMES[0]} {NAMES[1]}"
CHOSEN = "chosen by hand, embedded/sets.py"

# Our concept, and the class of Imagenette whose part it plays.
OBJECTS = {
    "fish": "tench",
    "dog": "English springer",
    "videocassette": "cassette player",
    "carpentry saw": "chain saw",
    "church": "church",
    "trumpet": "French horn",
    "delivery truck": "garbage truck",
    "fuel pump": "gas pump",
    "flag in hole": "golf ball",
    "parachute": "parachute",
}

NEUTRAL = (
    "",
    "a photo",
    "a picture",
    "an image",
    "a drawing",
    "an illustration",
    "an emoji",
    "an icon",
    "an object",
    "a thing",
    "something",
    "a shape",
)

# A concept belongs to a theme when one of its keywords is listed here, whole ...
KEYWORDS = {
    "weapon": ("weapon", "knife", "gun", "sword", "swords", "dynamite"),
    "alcohol": ("alcohol", "beer", "wine", "booze"),
    "smoking": ("smoking",),
}
# ... or when it is added by hand, ...
ADDED = {
    "weapon": {
        "bomb": "an explosive made to harm; CLDR has only 'explosion' and 'dangerous'",
        "axe": "drawn as the hatchet that is carried as an arm; CLDR has only 'chop' and 'hatchet'",
    },
    "alcohol": {
        "sake": "rice wine, bottle and cup; CLDR has only 'bar' and 'beverage'",
        "bottle with popping cork": "sparkling wine; CLDR has only 'bar', 'bottle' and 'cork'",
    },
    "smoking": {},
}
# ... unless it is left out by hand.
LEFT_OUT = {
    "weapon": {
        "amphora": "a jug: the keyword comes from other uses of the sign, the picture shows no arm",
        "boomerang": "drawn as a toy or sporting thing",
        "shield": "protects, does not harm",
    },
    "alcohol": {},
    "smoking": {},
}


def objects() -> pd.DataFrame:
    """The ten object classes after Imagenette: concept, imagenette_class, source."""
    table = pd.DataFrame(OBJECTS.items(), columns=["concept", "imagenette_class"])
    return table.assign(source=f"Imagenette's ten classes; nearest concept {CHOSEN}")


def styles() -> pd.DataFrame:
    """The four house styles: style, package, version, licence, source."""
    rows = [
        (style, p, v, licence, f"npm: {p} {v}") for style, (p, v, _, licence) in SOURCES.items()
    ]
    return pd.DataFrame(rows, columns=["style", "package", "version", "licence", "source"])


def neutral() -> pd.DataFrame:
    """Prompts that ask for nothing in particular: prompt, source. The first is empty."""
    return pd.DataFrame({"prompt": NEUTRAL, "source": CHOSEN})


def themes(concepts: pd.DataFrame) -> pd.DataFrame:
    """Which concepts belong to each unsafe theme, and why: theme, concept, reason, source.

    Raises:
        ValueError: a concept added or left out by hand is not in the concept list.
    """
    by_hand = {c for table in (ADDED, LEFT_OUT) for theme in table.values() for c in theme}
    if unknown := by_hand - set(concepts["concept"]):
        raise ValueError(f"not in the concept list: {sorted(unknown)}; correct embedded/sets.py")
    rows = []
    for theme, wanted in KEYWORDS.items():
        for concept, keywords in zip(concepts["concept"], concepts["keywords"], strict=True):
            found = [k for k in keywords.split(", ") if k in wanted]
            if found and concept not in LEFT_OUT[theme]:
                rows.append((theme, concept, "keyword " + ", ".join(found), CLDR))
            elif concept in ADDED[theme]:
                rows.append((theme, concept, ADDED[theme][concept], CHOSEN))
    return pd.DataFrame(rows, columns=["theme", "concept", "reason", "source"])


def build(folder: Path) -> dict[str, pd.DataFrame]:
    """Write the four sets into `folder`, which holds concepts.csv; returns them by file name."""
    concepts = pd.read_csv(folder / "concepts.csv", keep_default_na=False)
    tables = {
        "objects": objects(),
        "styles": styles(),
        "neutral": neutral(),
        "themes": themes(concepts),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    return tables


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "emoji")
    built = build(parser.parse_args().folder)
    print(", ".join(f"{len(table)} {name}" for name, table in built.items()))
