"""GRADC_LOGS: what is told, and what is said of a topic that is not there."""

from __future__ import annotations

import gradc
from gradc.runtime import logs


def test_fusion_tells_what_explain_tells(monkeypatch, capsys):
    f = gradc.compile(lambda x: gradc.softmax(x, axis=-1))
    monkeypatch.setenv("GRADC_LOGS", "fusion")
    low = f.lower(gradc.spec((8, 16)))
    said = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("gradc fusion: ") for line in said] == low.explain().splitlines()


def test_a_topic_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setenv("GRADC_LOGS", "ir,fussion")
    assert logs.wants("ir")
    assert not logs.wants("fusion")
    said = capsys.readouterr().err
    assert "fussion" in said
    assert "fusion, kernel" in said
    logs.wants("cache")
    assert not capsys.readouterr().err
