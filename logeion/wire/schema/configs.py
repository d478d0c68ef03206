"""Configuration of topics and brokers."""

from __future__ import annotations

from typing import Annotated

from ..fields import Bool, Int8, Int16, Int32, Since, String, Struct


class DescribeConfigsResource(Struct):
    """An element of ``DescribeConfigsRequest.resources``."""

    resource_type: Int8 = 0
    resource_name: String = ""
    configuration_keys: list[String] | None = []


class DescribeConfigsRequest(Struct):
    """Key 32, versions 1-4, flexible from 4."""

    resources: list[DescribeConfigsResource] = []
    include_synonyms: Bool = False
    include_documentation: Annotated[Bool, Since(3)] = False


class DescribeConfigsSynonym(Struct):
    """An element of ``DescribeConfigsResponse.results.configs.synonyms``."""

    name: String = ""
    value: String | None = ""
    source: Int8 = 0


class DescribeConfigsResourceResult(Struct):
    """An element of ``DescribeConfigsResponse.results.configs``."""

    name: String = ""
    value: String | None = ""
    read_only: Bool = False
    config_source: Int8 = -1
    is_sensitive: Bool = False
    synonyms: list[DescribeConfigsSynonym] = []
    config_type: Annotated[Int8, Since(3)] = 0
    documentation: Annotated[String | None, Since(3)] = ""


class DescribeConfigsResult(Struct):
    """An element of ``DescribeConfigsResponse.results``."""

    error_code: Int16 = 0
    error_message: String | None = ""
    resource_type: Int8 = 0
    resource_name: String = ""
    configs: list[DescribeConfigsResourceResult] = []


class DescribeConfigsResponse(Struct):
    """Key 32, versions 1-4, flexible from 4."""

    throttle_time_ms: Int32 = 0
    results: list[DescribeConfigsResult] = []


class AlterableConfig(Struct):
    """An element of ``AlterConfigsRequest.resources.configs``."""

    name: String = ""
    value: String | None = ""


class AlterConfigsResource(Struct):
    """An element of ``AlterConfigsRequest.resources``."""

    resource_type: Int8 = 0
    resource_name: String = ""
    configs: list[AlterableConfig] = []


class AlterConfigsRequest(Struct):
    """Key 33, versions 0-2, flexible from 2."""

    resources: list[AlterConfigsResource] = []
    validate_only: Bool = False


class AlterConfigsResourceResponse(Struct):
    """An element of ``AlterConfigsResponse.responses``."""

    error_code: Int16 = 0
    error_message: String | None = ""
    resource_type: Int8 = 0
    resource_name: String = ""


class AlterConfigsResponse(Struct):
    """Key 33, versions 0-2, flexible from 2."""

    throttle_time_ms: Int32 = 0
    responses: list[AlterConfigsResourceResponse] = []


class IncrementalAlterableConfig(Struct):
    """An element of ``IncrementalAlterConfigsRequest.resources.configs``."""

    name: String = ""
    config_operation: Int8 = 0
    value: String | None = ""


class IncrementalAlterConfigsResource(Struct):
    """An element of ``IncrementalAlterConfigsRequest.resources``."""

    resource_type: Int8 = 0
    resource_name: String = ""
    configs: list[IncrementalAlterableConfig] = []


class IncrementalAlterConfigsRequest(Struct):
    """Key 44, versions 0-1, flexible from 1."""

    resources: list[IncrementalAlterConfigsResource] = []
    validate_only: Bool = False


class IncrementalAlterConfigsResponse(Struct):
    """Key 44, versions 0-1, flexible from 1."""

    throttle_time_ms: Int32 = 0
    responses: list[AlterConfigsResourceResponse] = []
