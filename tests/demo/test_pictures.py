"""The pictures are well-formed SVG that shows what it says."""
from xml.etree import ElementTree

import numpy as np
import pytest

from edgekit.demo import pictures
from edgekit.demo.scenes import Path, unrolled
from edgekit.demo.simulator import CARS
from edgekit.demo.traces import windows

SVG = "{http://www.w3.org/2000/svg}"


def test_forecast_picture_has_every_car_with_truth_and_forecasts():
    seeds = np.arange(2)
    truth = windows(seeds)
    forms = {"a < b": lambda h: np.zeros((len(h), 25, 2)), "b": lambda h: np.ones((len(h), 25, 2))}
    picture = pictures.forecasts(forms, truth, seeds)
    tree = ElementTree.fromstring(picture.svgs[0])
    assert len(tree.findall(f"{SVG}rect")) == CARS
    assert len(tree.findall(f"{SVG}polyline")) == 3 * CARS
    assert [text.text for text in tree.findall(f"{SVG}text")] == ["what happened", "a < b", "b"]


def test_truth_in_the_picture_lies_on_the_road():
    seeds = np.arange(1)
    tree = ElementTree.fromstring(pictures.forecasts({}, windows(seeds), seeds).svgs[0])
    left, top, width, height = map(float, tree.attrib["viewBox"].split())
    for line in tree.findall(f"{SVG}polyline"):
        points = np.array([p.split(",") for p in line.attrib["points"].split()], float)
        assert (points > (left, top)).all() and (points < (left + width, top + height)).all()


def test_driving_picture_crosses_out_the_bad_end():
    picture = pictures.drives({"expert": None, "hard left": lambda o: np.tile([0.0, 1.0], (len(o), 1))}, 3)
    for svg, lines in zip(picture.svgs, (2, 2)):
        tree = ElementTree.fromstring(svg)
        assert len(tree.findall(f"{SVG}polyline")) == lines
        assert len(tree.findall(f"{SVG}path")) == 1
    assert "Episode 3" in picture.caption


@pytest.mark.parametrize("points", [np.zeros((1, 2)), np.array([[0.0, -5.0], [99.0, 5.0]])])
def test_unrolled_takes_any_path(points):
    tree = ElementTree.fromstring(unrolled([Path(points, "#000000")], 100.0))
    assert tree.find(f"{SVG}polyline") is not None and tree.attrib["aria-label"]
