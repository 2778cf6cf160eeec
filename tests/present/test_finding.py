"""How findings write numbers."""

import pytest

from analysis.present.finding import say_number


@pytest.mark.parametrize(
    "value, figures, said",
    [
        (161.3, 2, "160"),
        (1234.5, 3, "1230"),
        (99.6, 2, "100"),
        (80.2, 2, "80"),
        (9.04, 2, "9"),
        (-1.2e7, 2, "-12000000"),
    ],
)
def test_no_number_is_a_power_of_ten(value, figures, said):
    assert say_number(value, figures) == said
