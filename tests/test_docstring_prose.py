"""What is taken from a docstring, and why the rest is not."""

import pytest

from stages.corpus.sources.prose import paragraphs, plain


def kept(docstring: str) -> list[str]:
    return [text for text, reason in paragraphs(docstring) if reason is None]


def reasons(docstring: str) -> set[str]:
    return {reason for _, reason in paragraphs(docstring) if reason is not None}


def test_numpydoc_keeps_sentences_and_leaves_out_tables_code_and_literature():
    docstring = """
    Return the mean of the values along an axis.

    The mean is the sum of the values divided by their number. It is
    computed over the flattened array by default.

    Parameters
    ----------
    values : array_like
        Numbers whose mean is wanted. If this is not an array, it is made
        into one first.
    axis : int, optional
        Axis to use.

    Returns
    -------
    mean : float

    See Also
    --------
    average : A mean with weights that the caller chooses for each value.

    Notes
    -----
    Rounding errors grow with the number of values that are added up.

    .. deprecated:: 1.2
       This text tells of the past and nobody should ever learn it.

    References
    ----------
    .. [1] A. Author, "A book about means", which is a fine book to read.

    Examples
    --------
    >>> mean([1, 2])
    1.5
    """
    assert kept(docstring) == [
        "Return the mean of the values along an axis.",
        "The mean is the sum of the values divided by their number. It is computed over the "
        "flattened array by default.",
        "Rounding errors grow with the number of values that are added up.",
        "Numbers whose mean is wanted. If this is not an array, it is made into one first.",
    ]


def test_google_style_keeps_the_text_around_its_sections():
    docstring = """Opens a file and reads what it holds.

    The file is closed again, whatever happens while it is being read.

    Args:
        path (str): Where the file lies. A relative path is taken from the folder in
            which the process was started.
        mode: How.

    Returns:
        bytes: All that the file holds, from its beginning to its very end.

    Example::

        data = read("x")

    Note:
        Nothing is cached, so that a second call reads the file again.
    """
    assert kept(docstring) == [
        "Opens a file and reads what it holds.",
        "The file is closed again, whatever happens while it is being read.",
        "Nothing is cached, so that a second call reads the file again.",
        "Where the file lies. A relative path is taken from the folder in which the process was "
        "started.",
        "All that the file holds, from its beginning to its very end.",
    ]


def test_sphinx_fields_and_markdown_code_are_left_out():
    docstring = """
    Send a message to the given address.

    ```python
    send("This is a message that reads like a sentence.")
    ```
    This is said below the code, and right above some more of it.
    ```
    This is a line of code that reads like a sentence as well.
    And this is another.
    ```

    :param address: The place that the message shall go to in the end.
    :return: Whether the message has been received by the other side.
    """
    assert kept(docstring) == [
        "Send a message to the given address.",
        "This is said below the code, and right above some more of it.",
    ]
    assert {"code", "listing"} <= reasons(docstring)


def test_list_items_are_paragraphs_when_they_are_sentences():
    docstring = """
    Three things may happen when the door is opened.

    - The door is stuck, and nothing at all
      happens to anyone.
    - a draught
    """
    assert kept(docstring)[1:] == ["The door is stuck, and nothing at all happens to anyone."]


@pytest.mark.parametrize(
    ("paragraph", "reason"),
    [
        ("See the page at https://example.org/page for all that is to be known.", "address"),
        ("The result is given by the well known formula :math:`a^2 + b^2`.", "mathematics"),
        ("The loop sets x = f(x) until the change in it is small enough.", "mathematics"),
        ("This file is licensed under the terms of a licence that is elsewhere.", "legal"),
        ("For example, this is how all of the values are read at once:", "announcement"),
        ("of the values that are left when all the others have been taken.", "fragment"),
        ("Too few words.", "too_short"),
        ("my_function(a_b, c_d) calls other_one(e_f) and third_one(g_h) with it.", "code"),
        ("It is what my_name and other_name say, and so do a_b and c_d of them.", "code"),
        ("====  ====  a table of things that are      far apart", "table"),
    ],
)
def test_what_does_not_read_as_prose_is_dropped_with_its_reason(paragraph, reason):
    found = paragraphs(f"A summary of what this does.\n\n{paragraph}\n")
    assert found[0] == ("A summary of what this does.", None)
    assert found[1][1] == reason


def test_an_announcement_goes_and_the_sentences_before_it_stay():
    text = "The values are read from the file at once. This is how it is done:"
    assert paragraphs(text) == [("The values are read from the file at once.", None)]


def test_explanations_of_parameters_need_running_text_to_follow():
    docstring = """
    Args:
        path: The place where the file lies, which must be there when it is read.
    """
    assert [reason for _, reason in paragraphs(docstring)] == ["definition_alone"]


@pytest.mark.parametrize(
    ("marked", "bare"),
    [
        ("See :func:`~package.module.name` and ``code`` or `name`.", "See name and code or name."),
        ("All :class:`Tensor`\\s of a [`~models.Model`] here.", "All Tensors of a Model here."),
        ("A `link <https://example.org>`_ and [another](https://example.org).",
         "A link and another."),
        ("It is **very** *good*, as shown [1]_ by them.", "It is very good, as shown by them."),
        ("Where :math:`n` is (see https://example.org) a number.", "Where n is a number."),
        ("The `i`\\ th of `~all.names` here.", "The ith of all.names here."),
        ("The |name| of <b>bold</b> people.", "The name of bold people."),
    ],
)  # fmt: skip
def test_markup_is_taken_off(marked, bare):
    assert " ".join(plain(marked).split()) == bare
