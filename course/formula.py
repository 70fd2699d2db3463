"""LaTeX formulas as MathML that a browser sets well: no script, no download."""

from __future__ import annotations

import re
import unicodedata
from html import unescape
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element

SCRIPTS = {"script": "SCRIPT", "double-struck": "DOUBLE-STRUCK"}
SPACES = {"negativethinmathspace": "-0.167em"}
ACCENTS = {"^": "\u02c6", "\u00af": "\u00af"}  # a hat, a bar
PRIME = "\u2032"


def mathml(latex: str, display: bool) -> str:
    """A formula as MathML, on a line of its own if `display`.

    What latex2mathml leaves to browsers that no longer do it is done here: letters of other
    alphabets become characters of their own, limits stand under their operator, and `\\big` takes
    a double bar.
    """
    source = re.sub(r"\\[bB]igg?[lr]?\s*\\\|", r"\\|", latex.strip())
    source = re.sub(r"\\arg\b", r"\\mathrm{arg}", source)
    root = convert_to_element(source, display="block" if display else "inline")
    for element in root.iter():
        element.text = unescape(element.text or "")  # it writes a sign as &#x0003D;
    for element in root.iter():
        _mend(element, display)
    return tostring(root, encoding="unicode")


def _mend(element: Element, display: bool) -> None:
    children = list(element)
    if element.tag == "mrow" and children and all(_upright(child) for child in children):
        word = "".join(child.text or "" for child in children)  # \mathrm: one name, not letters
        for child in children[1:]:
            element.remove(child)
        children[0].text = word
    alphabet = SCRIPTS.get(element.get("mathvariant", ""))
    if alphabet and element.text:
        element.text = "".join(_letter(alphabet, c) for c in element.text)
        del element.attrib["mathvariant"]
    if display and element.tag == "msub" and children[0].text in ("min", "max"):
        element.tag = "munder"
    if element.tag == "mover" and children[1].text in ACCENTS:
        element.set("accent", "true")
        children[1].text = ACCENTS[children[1].text or ""]
        children[1].set("stretchy", "false")
    if element.tag == "msup" and children[1].text == PRIME:  # it is raised and small already
        element.tag, children[1].tag = "mrow", "mo"
        children[1].attrib.update({"lspace": "0", "rspace": "0"})
    if element.tag == "mspace" and element.get("width") in SPACES:
        element.set("width", SPACES[element.get("width", "")])


def _upright(element: Element) -> bool:
    return element.tag == "mi" and element.get("mathvariant") == "normal"


def _letter(alphabet: str, letter: str) -> str:
    """𝒩 of N; some of these letters are older than their alphabet and have another name."""
    for name in (f"MATHEMATICAL {alphabet} CAPITAL {letter}", f"{alphabet} CAPITAL {letter}"):
        try:
            return unicodedata.lookup(name)
        except KeyError:
            continue
    return letter
