"""Settings: what is read is what was written, and what was written wrong is named."""

import copy
import pwd
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from mtseg.part import part
from mtseg.settings.checked import dump, validate
from mtseg.settings.merge import merge
from mtseg.settings.strict_yaml import MAX_BYTES, MAX_DEPTH, read_yaml, to_yaml
from mtseg.settings.words import gather, gathered, parse_word

# No deadline: a busy machine is not a failure.
EXAMPLES = settings(max_examples=80, deadline=None)


@part
class Ema:
    kind: Literal["ema"] = "ema"
    decay: Annotated[float, Field(ge=0, le=1)] = 0.99
    # Named as another part's kind, and as its own: a tag must not be taken for a key, nor a key for a tag.
    itself: int = 0
    ema: int = 0
    mode: int | str = 0

    def __post_init__(self) -> None:
        if self.decay == 0.5 and self.itself:
            raise ValueError("decay 0.5 and itself do not go together: drop one")


@part
class Itself:
    kind: Literal["itself"] = "itself"
    gradient: bool = False


@part
class Rows:
    kind: Literal["memory"] = "memory"
    rows: int
    more: int = 0


@part
class Decay:
    kind: Literal["ema"] = "ema"
    decay: float


@part
class Anew:
    teacher: Annotated[Decay | Rows, Field(discriminator="kind")]
    lr: int
    steps: int


@part
class Geometry:
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5


Teacher = Annotated[Ema | Itself, Field(discriminator="kind")]


@part
class Branch:
    weight: Annotated[float, Field(ge=0)] = 1.0
    geometry: Literal["shared", "own"] | Geometry = "shared"
    teacher: Teacher | None = None
    size: int | str = "full"
    ramp: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    crop: tuple[int, int] | int | None = None
    window: Annotated[tuple[int, int], Field(description="[height, width]")] = (1, 1)
    some: Annotated[tuple[int, ...], Field(min_length=1, max_length=3)] = (1,)
    either: Literal["none"] | Teacher = "none"
    untagged: Ema | Itself = Itself()
    pair: tuple[int, Geometry] = (1, Geometry())
    shares: dict[Literal["strong", "weak"], float] = Field(default_factory=dict)
    level: Literal[1, 2] = 1


@part
class Model:
    encoder: str
    frozen: bool = False
    weights: Path | None = None
    options: dict[str, int | str] = Field(default_factory=dict)
    distance: Literal["squared", "kl", "l1"] = "squared"


@part
class Run:
    model: Model
    teacher: Teacher = Ema()
    branches: tuple[Branch, ...] = ()
    by_name: dict[str, Branch] = Field(default_factory=dict)
    steps: int = 10


def run(**over: Any) -> Run:
    return validate(Run, {"model": {"encoder": "tiny"}, **over})


def complaint(**over: Any) -> str:
    with pytest.raises(ValueError) as caught:
        run(**over)
    return str(caught.value)


def read(folder: Path, text: str | bytes) -> dict[str, Any]:
    path = folder / "some.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(path)


def outcome(call: Callable[[], Any]) -> Any:
    """What the call gives, or the message of its ValueError (pydantic's own subclass does not count)."""
    try:
        return call()
    except ValueError as error:
        if type(error) is ValueError:
            return str(error)
        raise


def same(left: Any, right: Any) -> bool:
    """Equal with types: 1, 1.0 and true are three things; nor does order of keys get lost."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


# --- YAML ---


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "0.1e-2", ".001", "+1.0e-03", "10.0E-4"])
def test_every_spelling_of_a_thousandth_is_the_same_float(tmp_path: Path, text: str) -> None:
    assert same(read(tmp_path, f"lr: {text}"), {"lr": 0.001})


@pytest.mark.parametrize("text", ["1E5", "1e5", "1e+5", "100000.", "100000.0"])
def test_every_spelling_of_a_hundred_thousand_with_point_or_exponent_is_a_float(text: str) -> None:
    assert same(parse_word(f"x={text}")[1], 1e5)


@pytest.mark.parametrize("text", ["0", "-0", "7", "+7", "-12", "123456789012345678901234567890"])
def test_a_plain_decimal_is_an_integer(text: str) -> None:
    assert same(parse_word(f"x={text}")[1], int(text))


GUESSES = """
    010 -010 08 0x10 0b1 0o7 1_000 1_0.5 010.5 010e1 12:30 12:30:45.5 190:20:30 2024-01-31
    2001-12-14t21:59:43Z yes Yes no NO on off y n True FALSE None
    1e 1e- e5 0.1e . -- 1.2.3 1e-3x Infinity nan inf << =
"""


@pytest.mark.parametrize("text", GUESSES.split())
def test_what_yaml_guesses_at_stays_the_string_that_was_written(tmp_path: Path, text: str) -> None:
    assert same(read(tmp_path, f"a: [x, {text}]"), {"a": ["x", text]})


def test_only_true_and_false_are_booleans_and_null_has_its_spellings(tmp_path: Path) -> None:
    tree = read(tmp_path, "a: true\nb: false\nc: null\nd: ~\ne:\nf: 'true'\ng: 'null'\nh: '1'\ni: ''\n")
    assert same(tree, dict(a=True, b=False, c=None, d=None, e=None, f="true", g="null", h="1", i=""))


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "\ufeff"])
def test_a_file_that_says_nothing_is_an_empty_mapping(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == {}


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a'"),
        ("x:\n  a: 1\n  a: 1\n", 3, "'a'"),
        ("x: {a: 1,\n 'a': 2}\n", 2, "'a'"),
        ("a: 1\n2: b\n", 2, "'2'"),
        ("a: 1\ntrue: b\n", 2, "'true'"),
        ("a: 1\n? [x]\n: b\n", 2, "not a string"),
        ("a: &here [1]\nb: 2\n", 1, "anchor"),
        ("a: 1\nb: *here\n", 2, "alias"),
        ("a: 1\nb: !!python/name:os.system x\n", 2, "tag"),
        ("a: 1\nb: !!str 1\n", 2, "tag"),
        ("a: 1\nb: ! x\n", 2, "tag"),
        ("a: 1\nb: [1, 2\n", 3, "expected"),
        ("a: 1\nb:\n\t- x\n", 3, "token"),
        ("a: 1\nb: \x07\n", 2, "special characters"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a:\n " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 2, "deep"),
    ],
)
def test_a_broken_rule_of_yaml_is_reported_with_file_and_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    with pytest.raises(ValueError, match=rf"some\.yaml, line {line}: .*{word}"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["[1, 2]", "3", "just words", "a:1"])
def test_a_top_level_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"some\.yaml: expected `key: value`"):
        read(tmp_path, text)


def test_bytes_that_are_not_utf8_and_huge_numbers_and_characters_are_refused_by_file(tmp_path: Path) -> None:
    for text in (b"a: \xff\xfe", b"a: " + b"9" * 5000, b'a: "\\UFFFFFFFF"'):
        with pytest.raises(ValueError, match=r"some\.yaml"):
            read(tmp_path, text)


def test_a_file_over_the_size_limit_is_refused_and_one_at_the_limit_is_read(tmp_path: Path) -> None:
    text = b"a: 1\n#"
    assert read(tmp_path, text.ljust(MAX_BYTES, b"x")) == {"a": 1}
    with pytest.raises(ValueError, match="too big"):
        read(tmp_path, text.ljust(MAX_BYTES + 1, b"x"))


def test_a_tree_that_was_read_is_its_readers_own_and_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: {b: [1, 2]}\n")
    first = read_yaml(file)
    first["a"]["b"].append(3)
    assert read_yaml(file) == {"a": {"b": [1, 2]}}
    file.write_text("a: {b: [1, 4]}\n")
    assert read_yaml(file) == {"a": {"b": [1, 4]}}


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "fixmatch.yaml").touch()
    with pytest.raises(ValueError, match=r"fixmach\.yaml: no such file; did you mean 'fixmatch\.yaml'"):
        read_yaml(tmp_path / "fixmach.yaml")
    with pytest.raises(ValueError, match=r"none/fixmach\.yaml: no such file$"):
        read_yaml(tmp_path / "none" / "fixmach.yaml")
    with pytest.raises(ValueError, match="no such file"):
        read_yaml(tmp_path)


PIECES = st.sampled_from([*"abc01 .-+:#,[]{}&*!|>'\"%@`?~=<\n\t\\_", "\n- ", ": ", "\n  ", "\ufeff", "\\u", "<<"])


@EXAMPLES
@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=30).map(lambda p: "".join(p).encode())))
def test_any_bytes_are_a_mapping_or_a_value_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        got = outcome(partial(read, Path(folder), data))
    assert type(got) is dict or "some.yaml" in got


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.floats(min_value=1e-12, max_value=1e-3),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["1e-3", "010", "12:30", "yes", "null", "~", "true", ".inf", "<<", "a\n", "\na", "-", "#"]),
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["1", "null", "a b"])
TREES = st.dictionaries(
    KEYS,
    st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(KEYS, x, max_size=3), max_leaves=6),
    max_size=4,
)


@EXAMPLES
@given(TREES)
@example({"a\x85b": ["\x85", "\u2028", "\ufeff", "\xa0"]})
def test_a_tree_written_is_the_tree_read_with_types_and_order(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert same(read(Path(folder), to_yaml(tree)), tree)


def test_what_is_written_has_no_aliases_for_a_value_that_stands_twice(tmp_path: Path) -> None:
    twice = {"betas": [0.9, 0.999]}
    assert read(tmp_path, to_yaml({"b": twice, "a": twice})) == {"b": twice, "a": twice}


def test_written_floats_are_floats_for_an_ordinary_yaml_reader_too() -> None:
    tree = {"lr": 1e-05, "big": 1e22, "half": 0.5}
    assert same(yaml.safe_load(to_yaml(tree)), tree)


# --- words ---


@pytest.mark.parametrize(
    ("word", "keys", "value"),
    [
        ("lr=1e-3", ["lr"], 0.001),
        ("a.b=010", ["a", "b"], "010"),
        ("a.b-c.d_e=[1, x, true]", ["a", "b-c", "d_e"], [1, "x", True]),
        ("a={b: {c: 1}}", ["a"], {"b": {"c": 1}}),
        ("a=null", ["a"], None),
        ("a=~", ["a"], None),
        ("a=''", ["a"], ""),
        ("a=b=c", ["a"], "b=c"),
        ("a=runs/x.yaml", ["a"], "runs/x.yaml"),
    ],
)
def test_a_word_is_a_path_of_keys_and_a_yaml_value(word: str, keys: list[str], value: Any) -> None:
    got_keys, got = parse_word(word)
    assert got_keys == tuple(keys)
    assert same(got, value)


@pytest.mark.parametrize("word", ["", "a", "=1", ".a=1", "a.=1", "a..b=1", "a b=1", "--lr=1", " a=1", "a[0]=1"])
def test_a_word_without_a_proper_key_is_refused_with_the_form_expected(word: str) -> None:
    with pytest.raises(ValueError, match=r"expected key\.sub=value"):
        parse_word(word)


@pytest.mark.parametrize("word", ["a=", "a=  ", "a=# gone", "a=---"])
def test_a_word_without_a_value_is_refused_and_told_of_null(word: str) -> None:
    with pytest.raises(ValueError, match="a=null"):
        parse_word(word)


@pytest.mark.parametrize("word", ["views.crop=[160,", "data.mask_map={0:", "method.branches=[{mix:"])
def test_a_word_that_the_shell_has_cut_at_a_blank_is_told_so(word: str) -> None:
    with pytest.raises(
        ValueError, match=r"cut at a blank\? Put the whole word into quotes, as in \"views\.crop="
    ) as refusal:
        parse_word(word)
    (quoted,) = shlex.split(str(refusal.value).rpartition("as in ")[2])
    assert parse_word(quoted) == (("views", "crop"), [160, 224])


COLOURS = ["data.mask_map={#804080: road}", "data.mask_map={#804080:", "a=[#000000]", "a=['#000000',#ffffff]", "a=#000"]


@pytest.mark.parametrize("word", COLOURS)
def test_a_colour_that_has_lost_its_quotes_is_told_of_comments_and_of_both_quotes(word: str) -> None:
    with pytest.raises(
        ValueError, match=r"`#` begins a comment in YAML: .*double quotes.*single ones.* as in '"
    ) as refusal:
        parse_word(word)
    as_written = str(refusal.value).rpartition("as in ")[2]
    (plain,) = shlex.split(as_written)
    assert parse_word(plain) == (("data", "palette"), ["#804080"])


@pytest.mark.parametrize("word", ["a=[1", "a=['#000000'", 'a={"#000000": road', "a=[b#1"])
def test_a_word_without_a_comment_is_told_of_none(word: str) -> None:
    with pytest.raises(ValueError) as refusal:
        parse_word(word)
    assert "comment" not in str(refusal.value)


@pytest.mark.parametrize("word", ["a=[1", "a={b: 1, b: 2}", "a=&x 1", "a=!!int 1", "a={1: 2}", "a='x"])
def test_the_value_of_a_word_obeys_the_rules_of_files(word: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse_word(word)


# --- merge and gather ---

SCALARS = st.integers() | st.lists(st.integers(), max_size=2) | st.none()
# Capitals hold mappings and small letters hold values: a key that changes its nature is replaced, which is
# deliberately not associative ({a: null} between two mappings resets the first only if it is merged first).
NESTED = st.recursive(
    st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2),
    lambda inner: st.builds(
        lambda values, maps: {**values, **maps},
        st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2),
        st.dictionaries(st.sampled_from("AB"), inner, max_size=2),
    ),
    max_leaves=8,
)


@EXAMPLES
@given(NESTED)
def test_an_empty_tree_changes_nothing_on_either_side(tree: dict[str, Any]) -> None:
    assert merge(tree, {}) == tree == merge({}, tree)


@EXAMPLES
@given(NESTED, NESTED, NESTED)
def test_merging_is_associative(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@EXAMPLES
@given(TREES, TREES)
def test_merging_changes_neither_argument(a: dict[str, Any], b: dict[str, Any]) -> None:
    a, b = {**a, "in": {"kind": 1, "x": {}}}, {**b, "in": {"x": {"y": 2}}}
    before = copy.deepcopy((a, b))
    merge(a, b)
    assert (a, b) == before


def paths(tree: dict[str, Any], stem: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every leaf by its path: the flat picture of a tree of `NESTED`."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        flat.update(paths(value, (*stem, key)) if isinstance(value, dict) else {(*stem, key): value})
    return flat


@EXAMPLES
@given(NESTED, NESTED)
def test_merging_is_dict_update_on_the_paths_of_leaves(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert paths(merge(a, b)) == {**paths(a), **paths(b)}


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"kind": "ema", "decay": 0.9}, {"kind": "itself"}, {"kind": "itself"}),
        ({"kind": "ema", "decay": 0.9}, {"kind": "ema", "mode": 1}, {"kind": "ema", "decay": 0.9, "mode": 1}),
        ({"kind": "ema", "decay": 0.9}, {"decay": 0.5}, {"kind": "ema", "decay": 0.5}),
        ({"decay": 0.9}, {"kind": "ema"}, {"decay": 0.9, "kind": "ema"}),
        ({"a": {"kind": "x", "b": 1}, "c": 2}, {"a": {"kind": "y"}}, {"a": {"kind": "y"}, "c": 2}),
        ({"arch": "x", "options": {"a": 1}, "b": 2}, {"arch": "y"}, {"arch": "y", "b": 2}),
        ({"arch": "x", "options": {"a": 1}}, {"arch": "y", "options": {"b": 1}}, {"arch": "y", "options": {"b": 1}}),
        (
            {"arch": "x", "options": {"a": 1}},
            {"arch": "x", "options": {"b": 1}},
            {"arch": "x", "options": {"a": 1, "b": 1}},
        ),
        ({"options": {"a": 1}}, {"arch": "x"}, {"arch": "x", "options": {"a": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_another_kind_starts_afresh_and_the_same_kind_goes_on(
    base: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert merge(base, over) == merged


@pytest.fixture
def two_files(tmp_path: Path) -> list[str]:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yml"
    first.write_text("lr: 1\nteacher: {kind: ema, decay: 0.9}\nsteps: 1\n")
    second.write_text("steps: 2\nteacher: {decay: 0.8}\n")
    return [str(first), str(second)]


def test_a_later_file_wins_over_an_earlier_one_key_by_key(two_files: list[str]) -> None:
    assert gather(two_files) == {"lr": 1, "teacher": {"kind": "ema", "decay": 0.8}, "steps": 2}


def test_a_file_of_which_a_larger_one_that_comes_after_it_leaves_nothing_is_refused(two_files: list[str]) -> None:
    first, second = two_files
    with pytest.raises(
        ValueError, match=rf"{second} changes nothing .*{first}, which comes after it.*name {second} after"
    ):
        gather([second, first])
    assert gather([second, second]) == gather([second])


def test_a_file_that_would_change_nothing_anywhere_or_is_refined_may_stand_anywhere(two_files: list[str]) -> None:
    first, _ = two_files
    part, more = (Path(first).with_name(f"{name}.yaml") for name in ("part", "more"))
    part.write_text("teacher: {kind: ema, decay: 0.9}\n")  # as `first` has it
    assert gather([str(part), first]) == gather([first])
    more.write_text("teacher: {kind: ema, decay: 0.7, mode: 1}\n")  # refines `part`, and says nothing else
    assert gather([str(part), str(more)]) == gather([str(more)])
    part.write_text("teacher: {kind: ema, mode: 1}\n")
    assert gather([str(part), first])["teacher"] == {"kind": "ema", "decay": 0.9, "mode": 1}  # not all is covered


def test_words_win_over_files_wherever_they_stand_and_later_words_over_earlier(two_files: list[str]) -> None:
    first, second = two_files
    expected = {"lr": 1, "teacher": {"kind": "ema", "decay": 0.1}, "steps": 9}
    words = ["steps=8", "teacher.decay=0.1", "steps=9"]
    assert gather([*words, first, second]) == gather([first, *words, second]) == expected
    assert gather([]) == {}


def test_a_word_that_changes_the_kind_keeps_the_words_beside_it_in_either_order(two_files: list[str]) -> None:
    words = ["teacher.kind=memory", "teacher.rows=3"]
    for order in (words, words[::-1]):
        assert gather([*two_files, *order])["teacher"] == {"kind": "memory", "rows": 3}


def test_a_value_may_look_like_a_file_and_a_file_like_a_value(tmp_path: Path) -> None:
    (tmp_path / "lr=1.yaml").write_text("b: 2")
    assert gather(["data.list=my.yaml", f"{tmp_path}/lr=1.yaml"]) == {"data": {"list": "my.yaml"}, "b": 2}


@pytest.mark.parametrize("word", ["fixmatch", "run.json", "--help", "a b=1"])
def test_any_other_word_is_refused_with_what_was_expected(word: str) -> None:
    with pytest.raises(ValueError, match=r"settings file \(\.yaml, \.yml\) or key\.sub=value"):
        gather([word])


@pytest.mark.parametrize(
    ("words", "path", "text", "remedy"),
    [
        (["a.b.rotation=5"], "a.b", "shared", 'a.b={"rotation": 5}'),
        (["a.b.c.d=[1, x]"], "a.b", "shared", 'a.b={"c": {"d": [1, "x"]}}'),
        (["a.c=shared", "a.c.flip=1"], "a.c", "shared", 'a.c={"flip": 1}'),
        (["a.kind=x", "a.b.c=1"], "a.b", "shared", 'a.b={"c": 1}'),  # the same kind
    ],
)
def test_a_word_that_reaches_below_a_text_is_refused_and_told_how_to_write_it_whole(
    words: list[str], path: str, text: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "f.yaml").write_text("a: {kind: x, b: shared}\n")
    with pytest.raises(ValueError) as refusal:
        gather([str(tmp_path / "f.yaml"), *words])
    assert str(refusal.value).startswith(f"{words[-1]!r}: {path} is set to {text!r}, ")
    (whole,) = shlex.split(str(refusal.value).rpartition("as in ")[2])
    assert whole == remedy
    assert gather([str(tmp_path / "f.yaml"), *words[:-1], whole])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.b={c: 1}", "a.b.d=2"], {"kind": "x", "b": {"c": 1, "d": 2}, "n": 3}),
        (["a.b.c=1", "a.kind=y"], {"kind": "y", "b": {"c": 1}}),  # another kind has dropped the text
        (["a.kind=y", "a.b.c=1"], {"kind": "y", "b": {"c": 1}}),
        (["a={b: {c: 1}}"], {"kind": "x", "b": {"c": 1}, "n": 3}),
        (["a.n.c=1"], {"kind": "x", "b": "shared", "n": {"c": 1}}),
        (["a.b=null", "a.b.c=1"], {"kind": "x", "b": {"c": 1}, "n": 3}),
        (["a.b=1/4", "a.b.c=1", "a.b.d=2"], {"kind": "x", "b": {"c": 1, "d": 2}, "n": 3}),  # a choice of another kind
    ],
)
def test_a_word_may_reach_below_what_is_no_text(words: list[str], expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("a: {kind: x, b: shared, n: 3}\n")
    assert gather([str(tmp_path / "f.yaml"), *words]) == {"a": expected}


@pytest.mark.parametrize("word", ["a.b[0].weight=2", "a.b[0]=2", "a.b[]=x"])
def test_a_word_for_an_item_of_a_list_is_told_that_lists_are_written_whole(word: str) -> None:
    with pytest.raises(ValueError, match=r"key\.sub=value; lists are written whole, as in 'a\.b=\[\.\.\.\]'$"):
        gather([word])


def test_where_another_kind_began_anew_a_missing_key_is_told_of_those_that_were_dropped(two_files: list[str]) -> None:
    def told(*words: str) -> str:
        tree, anew = gathered([*two_files, *words])
        with pytest.raises(ValueError) as refusal:
            validate(Anew, tree, anew=anew)
        return str(refusal.value)

    assert told("teacher.kind=memory") == (
        "teacher: missing key 'rows': kind memory in place of ema begins anew, without the keys of ema (decay); "
        "give teacher.rows too"
    )
    assert told("teacher.kind=ema", "teacher.mode=1") == "teacher.mode: unknown key (value 1); known keys: kind, decay"
    third = Path(two_files[0]).with_name("third.yaml")
    third.write_text("teacher: {kind: memory}\n")
    assert "memory in place of ema begins anew" in told(str(third))
    assert told(str(third), "teacher={rows: x}") == "teacher.rows: expected an integer, got 'x'"
    third.write_text("teacher: {kind: memory, more: 1}\n")
    assert "begins anew" in told(str(third), "lr=2")
    assert gathered(two_files)[1] == {}


# --- validate ---


def test_a_right_tree_builds_the_part_with_lists_as_tuples_and_text_as_paths() -> None:
    built = run(
        model={"encoder": "tiny", "weights": "w.pt", "options": {"a": 1, "b": "x"}},
        teacher={"kind": "itself"},
        branches=[{"geometry": {"scale": [1, 2]}, "weight": 2}],
    )
    assert built.model == Model(encoder="tiny", weights=Path("w.pt"), options={"a": 1, "b": "x"})
    assert built.teacher == Itself()
    assert built.branches == (Branch(geometry=Geometry(scale=(1.0, 2.0)), weight=2.0),)
    assert type(built.branches[0].weight) is float


@part
class Places:
    out: Path
    cache: Path | None = None
    either: Literal["none"] | Path = "none"
    name: str = "~"
    many: tuple[Path, ...] = ()
    more: tuple[Model, ...] = ()
    by_name: dict[str, Path] = Field(default_factory=dict)


def test_a_tilde_at_the_beginning_of_a_path_is_the_home_folder_and_elsewhere_a_letter(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    inner = [{"encoder": "~", "weights": "~/w.pt"}, {"encoder": "b", "weights": "w/~/x~"}]
    tree = {
        "out": "~",
        "cache": "~/cache",
        "either": "~/x",
        "many": ["a", "~/b"],
        "more": inner,
        "by_name": {"~": "~/c"},
    }
    built = validate(Places, tree)
    assert built == Places(
        out=Path("/home/ada"),
        cache=Path("/home/ada/cache"),
        either=Path("/home/ada/x"),
        many=(Path("a"), Path("/home/ada/b")),
        more=(Model(encoder="~", weights=Path("/home/ada/w.pt")), Model(encoder="b", weights=Path("w/~/x~"))),
        by_name={"~": Path("/home/ada/c")},
    )
    assert validate(Places, dump(built)) == built
    assert validate(Places, {"out": "~root/x"}).out == Path(pwd.getpwnam("root").pw_dir, "x")


def test_the_home_folder_of_a_user_who_is_not_there_is_refused_by_key() -> None:
    with pytest.raises(
        ValueError, match=r"^more\[0\]\.weights: '~nobody-here/w\.pt': no such home folder; write the path"
    ):
        validate(Places, {"out": "x", "more": [{"encoder": "a", "weights": "~nobody-here/w.pt"}]})
    with pytest.raises(ValueError, match=r"^run\.yaml:\n  out: '~nobody-here': no such home folder"):
        validate(Places, {"out": "~nobody-here"}, origin="run.yaml")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"steps": "10"}, "steps: expected an integer, got '10'"),
        ({"steps": 1.0}, "steps: expected an integer, got 1.0; write 1"),
        ({"steps": True}, "steps: expected an integer, got true"),
        ({"steps": None}, "steps: expected an integer, got null"),
        ({"teacher": {"kind": "ema", "decay": "abc"}}, "teacher.decay: expected a number, got 'abc'"),
        ({"teacher": {"kind": "ema", "decay": False}}, "teacher.decay: expected a number, got false"),
        ({"teacher": {"kind": "itself", "gradient": 1}}, "teacher.gradient: expected true or false, got 1"),
        ({"teacher": 3}, "teacher: expected a mapping, got 3"),
        ({"branches": {}}, "branches: expected a list, got {}"),
        ({"branches": [1]}, "branches[0]: expected a mapping, got 1"),
        ({"model": {"encoder": 5}}, "model.encoder: expected a string, got 5"),
    ],
)
def test_nothing_is_converted_and_the_message_says_what_was_expected(over: dict[str, Any], message: str) -> None:
    assert complaint(**over) == message


@pytest.mark.parametrize(
    ("over", "path", "near", "known"),
    [
        ({"stepz": 1}, "stepz", "steps", Run),
        ({"teacher": {"kind": "ema", "decya": 0.9}}, "teacher.decya", "decay", Ema),
        ({"teacher": {"kind": "itself", "gradent": 1}}, "teacher.gradent", "gradient", Itself),
        ({"branches": [{}, {"wieght": 1}]}, "branches[1].wieght", "weight", Branch),
        ({"branches": [{"geometry": {"flop": 1}}]}, "branches[0].geometry.flop", "flip", Geometry),
        ({"branches": [{"teacher": {"kind": "ema", "dekay": 1}}]}, "branches[0].teacher.dekay", "decay", Ema),
        ({"branches": [{"either": {"kind": "ema", "dekay": 1}}]}, "branches[0].either.dekay", "decay", Ema),
        (
            {"branches": [{"untagged": {"kind": "ema", "dekay": 1}}]},
            "branches[0].untagged.dekay",
            "decay",
            Ema,
        ),
        ({"branches": [{"pair": [1, {"flop": 1}]}]}, "branches[0].pair[1].flop", "flip", Geometry),
        ({"by_name": {"Ema": {"wieght": 1}}}, "by_name.Ema.wieght", "weight", Branch),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest_and_the_keys_of_the_right_part(
    over: dict[str, Any], path: str, near: str, known: type
) -> None:
    keys = ", ".join(known.__annotations__)
    message = complaint(**over)
    assert message.startswith(f"{path}: unknown key (value ")
    assert message.endswith(f"; did you mean {near!r}? known keys: {keys}")


def test_an_unknown_key_far_from_all_others_gets_no_guess() -> None:
    message = complaint(model={"encoder": "tiny", "zzz": [1, "a"]})
    assert message.startswith('model.zzz: unknown key (value [1, "a"]); known keys: encoder, ')


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"teacher": {"kind": "emaa", "decay": 7}},
            "teacher.kind: 'emaa' is not one of 'ema', 'itself', did you mean 'ema'?",
        ),
        ({"teacher": {"kind": 3}}, "teacher.kind: 3 is not one of 'ema', 'itself'"),
        ({"teacher": {"decay": 0.9}}, "teacher: missing key 'kind', one of 'ema', 'itself'"),
        (
            {"branches": [{"either": {"kind": "itslef"}}]},
            "branches[0].either.kind: 'itslef' is not one of 'ema', 'itself', did you mean 'itself'?",
        ),
        (
            {"model": {"encoder": "tiny", "distance": "square"}},
            "model.distance: 'square' is not one of 'squared', 'kl', 'l1', did you mean 'squared'?",
        ),
    ],
)
def test_a_wrong_choice_is_shown_with_the_choices_and_the_nearest(over: dict[str, Any], message: str) -> None:
    assert complaint(**over) == message


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"teacher": {"kind": "ema", "decay": 1.5}}, "teacher.decay: 1.5 must be less than or equal to 1"),
        ({"teacher": {"kind": "ema", "ema": "x"}}, "teacher.ema: expected an integer, got 'x'"),
        ({"teacher": {"kind": "ema", "itself": "x"}}, "teacher.itself: expected an integer, got 'x'"),
        ({"branches": [{"weight": -1}]}, "branches[0].weight: -1 must be greater than or equal to 0"),
        ({"by_name": {"a.b": {"weight": -1}}}, "by_name.a.b.weight: -1 must be greater than or equal to 0"),
        ({"model": {}}, "model: missing key 'encoder'"),
        (
            {"branches": [{"pair": [1, {"flip": "x"}]}]},
            "branches[0].pair[1].flip: expected a number, got 'x'",
        ),
        (
            {"branches": [{"shares": {"str": 1}}]},
            "branches[0].shares.str: expected 'strong' or 'weak', got 'str'",
        ),
        ({"branches": [{"level": "1"}]}, "branches[0].level: '1' is not one of 1, 2"),
        ({"by_name": {"a\nb": 1}}, r"by_name.'a\nb': expected a mapping, got 1"),
        ({"branches": [{"geometry": {"scale": [1]}}]}, "branches[0].geometry.scale: expected 2 values, got 1"),
        ({"branches": [{"geometry": {"scale": []}}]}, "branches[0].geometry.scale: expected 2 values, got 0"),
        ({"branches": [{"geometry": {"scale": [1, 2, 3]}}]}, "branches[0].geometry.scale: expected 2 values, got 3"),
        (
            {"branches": [{"geometry": {"scale": 1}}]},
            "branches[0].geometry.scale: expected a list of 2 values, got 1; write [1, 1]",
        ),
        ({"branches": [{"window": [1]}]}, "branches[0].window: expected 2 values [height, width], got 1"),
        ({"branches": [{"window": [1, 2, 3]}]}, "branches[0].window: expected 2 values [height, width], got 3"),
        (
            {"branches": [{"window": 1}]},
            "branches[0].window: expected a list of 2 values [height, width], got 1; write [1, 1]",
        ),
        ({"branches": [{"window": [1, "x"]}]}, "branches[0].window[1]: expected an integer, got 'x'"),
        ({"branches": [{"some": []}]}, "branches[0].some: expected at least 1 value, got 0"),
        ({"branches": [{"some": [1, 2, 3, 4]}]}, "branches[0].some: expected at most 3 values, got 4"),
        ({"branches": [{"some": 1}]}, "branches[0].some: expected a list, got 1"),
    ],
)
def test_other_rules_are_told_at_the_path_that_the_user_wrote(over: dict[str, Any], message: str) -> None:
    assert complaint(**over) == message


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ({"size": 1.5}, "size: expected an integer or a string, got 1.5"),
        (
            {"geometry": "shard"},
            "geometry: expected 'shared' or 'own' or a mapping, got 'shard'; did you mean 'shared'?",
        ),
        ({"geometry": {"flip": "x"}}, "geometry.flip: expected a number, got 'x'"),
        ({"ramp": -1}, "ramp: -1 must be greater than or equal to 0"),
        ({"ramp": "x"}, "ramp: expected a number or 'auto', got 'x'"),
        ({"crop": [1, "x"]}, "crop[1]: expected an integer, got 'x'"),
        ({"crop": "x"}, "crop: expected a list of 2 values or an integer, got 'x'"),
        ({"either": 3}, "either: expected 'none' or a mapping, got 3"),
        ({"untagged": {"mode": 1.5}}, "untagged.mode: expected an integer or a string, got 1.5"),
        (
            {"untagged": {"gradient": True, "x": 1}},
            "untagged.x: unknown key (value 1); known keys: kind, gradient",
        ),
        ({"untagged": {"kind": "itself", "gradient": 3}}, "untagged.gradient: expected true or false, got 3"),
    ],
)
def test_a_union_gives_one_line_from_the_member_that_was_meant(branch: dict[str, Any], message: str) -> None:
    assert complaint(branches=[branch]) == f"branches[0].{message}"


def test_a_part_of_an_untagged_union_is_judged_as_its_own_kind_even_where_another_fits_more_keys() -> None:
    lines = complaint(branches=[{"untagged": {"kind": "itself", "decay": 0.5, "ema": 1}}]).splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "branches[0].untagged.decay: unknown key",
        "branches[0].untagged.ema: unknown key",
    ]


def test_a_rule_of_the_part_itself_is_told_in_its_own_words() -> None:
    wrong = {"kind": "ema", "decay": 0.5, "itself": 1}
    words = "decay 0.5 and itself do not go together: drop one"
    assert complaint(teacher=wrong) == f"teacher: {words}"
    assert complaint(branches=[{"either": wrong}]) == f"branches[0].either: {words}"
    with pytest.raises(ValueError) as caught:
        validate(Ema, wrong)
    assert str(caught.value) == words


def test_every_problem_has_its_line_in_one_error_under_its_origin() -> None:
    tree = {"steps": "x", "teacher": {"kind": "ema", "decay": 2}, "branches": [{"size": 1.5, "weight": -1}]}
    with pytest.raises(ValueError) as caught:
        validate(Run, tree, origin="demo.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == "demo.yaml:"
    paths_told = sorted(line.strip().partition(": ")[0] for line in lines)
    assert paths_told == [
        "branches[0].size",
        "branches[0].weight",
        "missing key 'model'",
        "steps",
        "teacher.decay",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_key(value: float) -> None:
    assert complaint(branches=[{"weight": value}]) == f"branches[0].weight: {value} is not a finite number"


def test_what_is_no_setting_is_refused_by_key() -> None:
    assert complaint(steps=object()).startswith("steps: <object")
    assert complaint(by_name={3: {}}) == "by_name: the key 3 is not a string"
    assert complaint(model={"encoder": "\ud800"}) == r"model.encoder: '\ud800' is not Unicode text"


@EXAMPLES
@given(TREES)
def test_any_tree_is_a_part_or_a_value_error_of_plain_lines(tree: dict[str, Any]) -> None:
    names = ("model", "teacher", "branches", "by_name")
    wholes = [{name: inner} for name in names for inner in (tree, list(tree.values()))]
    for whole in [*wholes, tree, {"by_name": {"x": {"either": tree, "untagged": tree}}}]:
        got = outcome(partial(validate, Run, whole))
        top = ("missing key", *names, *map(repr, whole), *filter(None, whole))
        assert isinstance(got, Run) or all(line.startswith(top) for line in got.splitlines())


@pytest.mark.parametrize("key", ["base", "_base_", "defaults", "inherits", "include"])
def test_a_key_that_would_include_another_file_is_told_that_files_are_named_in_order(key: str) -> None:
    told = complaint(**{key: "other.yaml"})
    assert told.startswith(f"{key}: unknown key (value 'other.yaml'); no file names another one: name ")
    assert "on the command line, one after another" in told
    assert "did you mean" not in told
    assert "name them" not in complaint(model={"encoder": "tiny", key: 1})  # within a part it is any unknown key


# --- parts in Python ---


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises(ValueError) as caught:
        make()
    assert type(caught.value) is ValueError
    return str(caught.value)


@pytest.mark.parametrize(
    ("cls", "over"),
    [
        (Ema, {"decay": 1.5}),
        (Ema, {"decay": 0.5, "itself": 1}),
        (Ema, {"dekay": 0.5}),
        (Model, {}),
        (Geometry, {"scale": [1, 2, 3]}),
        (Geometry, {"scale": 3}),
        (Branch, {"geometry": {"flop": 1}}),
        (Branch, {"weight": -1, "level": 3}),
        (Run, {"model": {"encoder": "tiny"}, "teacher": {"kind": "emaa"}}),
    ],
)
def test_a_part_made_in_python_is_refused_in_the_words_of_settings(cls: type, over: dict[str, Any]) -> None:
    assert refused(lambda: cls(**over)) == refused(lambda: validate(cls, over))


def test_what_only_python_can_write_is_refused_in_one_line_too() -> None:
    assert refused(lambda: Geometry(flip=object())).startswith("flip: expected a number, got <object ")  # type: ignore[arg-type]
    assert refused(lambda: Geometry(flip="x")) == "flip: expected a number, got 'x'"  # type: ignore[arg-type]
    assert refused(lambda: Geometry(0.5)) == "Geometry takes its values by name, as in Geometry(scale=...), got 0.5"  # type: ignore[misc]
    assert refused(lambda: replace(Ema(), decay=2.0)).startswith("decay: 2.0 must be")
    wrong = refused(lambda: Branch(geometry=Ema()))  # type: ignore[arg-type]
    assert wrong.startswith("geometry: expected 'shared' or 'own' or ")
    assert "\n" not in wrong


def test_a_part_within_a_part_keeps_its_path_when_its_own_rule_refuses_it() -> None:
    words = "decay 0.5 and itself do not go together: drop one"
    assert refused(lambda: Run(model=Model(encoder="x"), teacher={"kind": "ema", "decay": 0.5, "itself": 1})) == (  # type: ignore[arg-type]
        f"teacher: {words}"
    )
    assert refused(lambda: Run(model=Model(encoder="x"), teacher=Ema(decay=0.5, itself=1))) == words


# --- dump ---

FLOATS = st.floats(0, 1) | st.sampled_from([1e-5, 3e-12])
PARTS = st.builds(
    Run,
    model=st.builds(
        Model,
        encoder=st.sampled_from(["tiny", "010", "yes", "1e-3", "null"]),
        weights=st.sampled_from([None, Path("a/b.pt"), Path("null")]),
        options=st.dictionaries(st.sampled_from("ab"), st.integers() | st.sampled_from(["1", "x"])),
    ),
    teacher=st.builds(Ema, decay=FLOATS) | st.builds(Itself, gradient=st.booleans()),
    branches=st.lists(
        st.builds(
            Branch,
            weight=FLOATS,
            geometry=st.just("own") | st.builds(Geometry, scale=st.tuples(FLOATS, FLOATS)),
            crop=st.none() | st.integers() | st.tuples(st.integers(), st.integers()),
            either=st.just("none") | st.builds(Ema, decay=FLOATS),
        ),
        max_size=2,
    ).map(tuple),
)


@EXAMPLES
@given(PARTS)
def test_a_part_dumped_and_written_is_the_part_read(whole: Run) -> None:
    assert validate(Run, dump(whole)) == whole
    with tempfile.TemporaryDirectory() as folder:
        assert validate(Run, read(Path(folder), to_yaml(dump(whole)))) == whole


def test_a_dump_names_every_field_in_the_order_of_declaration() -> None:
    tree = dump(run(branches=[{}]))
    assert list(tree) == list(Run.__annotations__)
    assert list(tree["branches"][0]) == list(Branch.__annotations__)
    assert list(yaml.safe_load(to_yaml(tree))) == list(Run.__annotations__)


def test_a_part_whose_default_breaks_its_own_type_cannot_be_dumped() -> None:
    @part
    class Broken:
        steps: int = "ten"  # type: ignore[assignment]

    with pytest.raises(ValueError, match="ten"):
        dump(Broken())
