"""Charts of characters."""

from ratchet.model.text_chart import Series, draw_chart, short_number


def test_marks_stand_where_their_values_are():
    light = Series(".", [(1, 100), (100, 1)], is_line=True)
    marks = [Series("A", [(1, 1), (100, 100)]), Series("B", [(10, 10), (100, 100)])]
    chart = draw_chart([light, *marks], "users", "devices", width=28, height=9)
    assert chart.splitlines() == [
        "devices",
        "  100 ┤··                  *",
        "   50 ┤  ··",
        "      │    ···",
        "   20 ┤       ··",
        "   10 ┤         ·B·",
        "    5 ┤            ··",
        "      │              ···",
        "    2 ┤                 ··",
        "    1 ┤A                  ··",
        "      └┬──┬───┬──┬──┬───┬───",
        "       1  2   5 10 20  50",
        "                       users",
    ]


def test_a_single_point_makes_a_chart():
    assert "A" in draw_chart([Series("A", [(1500, 3)])], "x", "y")


def test_numbers_of_an_axis_are_short():
    assert [*map(short_number, (0.5, 1, 2000, 5e5, 2e9))] == ["0.5", "1", "2k", "500k", "2G"]
