"""Ray's launcher sets an account up and starts hosts for ray/cluster.yaml, in a mock of AWS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME

from tests.deployment import yaml


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray's provider for it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    monkeypatch.setenv("HOME", str(tmp_path))  # gets the key of the hosts
    monkeypatch.setattr(time, "sleep", lambda _: None)  # as Ray does until AWS is consistent
    with mock_aws():
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        yield AWSNodeProvider


def test_hosts_with_a_gpu_each_are_started(aws: Any) -> None:
    config = aws.fillout_available_node_types_resources(prepare_config(yaml("ray/cluster.yaml")))
    kinds = aws.bootstrap_config(config)["available_node_types"]
    assert [kind["resources"]["GPU"] for kind in kinds.values()] == [1, 1]
    provider = aws(config["provider"], config["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_NODE_NAME: "host"}
    made = [provider.create_node(kind["node_config"], tags, 1) for kind in kinds.values()]
    started = [instance for each in made for instance in each.values()]
    assert [each.instance_type for each in started] == ["g6.2xlarge", "g6.2xlarge"]


def test_a_host_that_is_not_to_be_had_is_seen(aws: Any) -> None:
    config = prepare_config(yaml("ray/cluster.yaml"))
    config["available_node_types"]["head"]["node_config"]["InstanceType"] = "g6.3xlarge"
    with pytest.raises(ValueError, match=r"g6\.3xlarge is not available"):
        aws.fillout_available_node_types_resources(config)
