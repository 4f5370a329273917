import pytest

from training.text.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "Stop!" She did. "Why?" he asked.', ['He said "Stop!"', "She did.", '"Why?" he asked.']),
        ("It ended (at last.) Then “we” left.", ["It ended (at last.)", "Then “we” left."]),
        ("Really?! Yes... No. 'Tis so.", ["Really?!", "Yes...", "No.", "'Tis so."]),
        ("Mr. Smith met Dr. J. Brown. They spoke.", ["Mr. Smith met Dr. J. Brown.", "They spoke."]),
        ("It cost 3.5 pounds, e.g. here. so what", ["It cost 3.5 pounds, e.g. here. so what"]),
        ("A heading\n\nThe text.\n \t\nMore", ["A heading", "The text.", "More"]),
        ("wrapped\nat this   width. Here\ttoo.", ["wrapped at this width.", "Here too."]),
        ("Élan. Était-ce? Àpropos.", ["Élan.", "Était-ce?", "Àpropos."]),
        (" \n\n \n", []),
        ("", []),
    ],
)
def test_split_sentences(text, expected):
    assert split_sentences(text) == expected


def test_splitting_loses_no_word():
    text = 'Call me Ishmael. "Some years ago," he said -- Mr. Q. and I!\n\nNever mind\nhow long... Precisely. '
    assert " ".join(split_sentences(text)).split() == text.split()
