"""What Kafka's brokers answer about records, partitions, topics and the cluster."""

from __future__ import annotations

from .error_base import KafkaError


class UnknownServerError(KafkaError, code=-1, name="UNKNOWN_SERVER_ERROR"):
    """The broker failed in a way it did not foresee."""

    hint = "look into the broker's log for the cause"


class OffsetOutOfRangeError(KafkaError, code=1):
    """The offset is below the log's start or beyond its end."""

    hint = "ask ListOffsets for the valid range, then seek"


class CorruptMessageError(KafkaError, code=2, retriable=True):
    """A batch fails its checksum or its length is wrong."""

    hint = "send it again; if it stays, look for a broken disk, network card or client"


class UnknownTopicOrPartitionError(KafkaError, code=3, retriable=True, refreshes_metadata=True):
    """The broker does not know this topic or partition."""

    hint = "check the name and the number of partitions; a new topic needs a moment"


class InvalidFetchSizeError(KafkaError, code=4):
    """The fetch asks for an impossible number of bytes."""

    hint = "ask for a positive number of bytes"


class LeaderNotAvailableError(KafkaError, code=5, retriable=True, refreshes_metadata=True):
    """The partition has no leader at this moment."""

    hint = "try again: an election is under way"


class NotLeaderOrFollowerError(KafkaError, code=6, retriable=True, refreshes_metadata=True):
    """This broker does not lead the partition."""

    hint = "refresh metadata and ask the leader"


class RequestTimedOutError(KafkaError, code=7, retriable=True):
    """The broker could not finish within the request's timeout; an append may still stand."""

    hint = "try again, by an idempotent producer if it was a produce"


class BrokerNotAvailableError(KafkaError, code=8):
    """The broker is not available."""

    hint = "check that it runs and can be reached"


class ReplicaNotAvailableError(KafkaError, code=9, retriable=True, refreshes_metadata=True):
    """The replica is not on this broker or not ready."""

    hint = "refresh metadata and try again"


class MessageTooLargeError(KafkaError, code=10):
    """A batch is larger than the topic takes."""

    hint = "send smaller batches or raise the topic's max.message.bytes"


class StaleControllerEpochError(KafkaError, code=11):
    """The controller has moved on."""

    hint = "wait until the new controller is known"


class NetworkError(KafkaError, code=13, retriable=True, refreshes_metadata=True, name="NETWORK_EXCEPTION"):
    """The connection ended before the answer came."""

    hint = "connect again and repeat the request"


class InvalidTopicError(KafkaError, code=17, name="INVALID_TOPIC_EXCEPTION"):
    """The topic's name is not valid, or the operation is closed to clients."""

    hint = "use at most 249 letters, digits, dots, underscores or hyphens"


class RecordListTooLargeError(KafkaError, code=18):
    """The batches are larger than a segment."""

    hint = "send smaller batches or raise segment.bytes"


class NotEnoughReplicasError(KafkaError, code=19, retriable=True):
    """Fewer replicas are in sync than min.insync.replicas asks for; nothing was appended."""

    hint = "bring replicas back, then try again"


class NotEnoughReplicasAfterAppendError(KafkaError, code=20, retriable=True):
    """Appended, but too few replicas were in sync to call it safe."""

    hint = "try again by an idempotent producer: the records are in the log"


class InvalidRequiredAcksError(KafkaError, code=21):
    """Produce asks for acks other than -1, 0 or 1."""

    hint = "use acks=all, 1 or 0"


class InvalidTimestampError(KafkaError, code=32):
    """A timestamp is outside what the topic takes."""

    hint = "check the clock of the producer and the topic's message.timestamp settings"


class UnsupportedVersionError(KafkaError, code=35):
    """The broker does not speak this version of the API."""

    hint = "ask ApiVersions and take a version both know"


class TopicAlreadyExistsError(KafkaError, code=36):
    """There is a topic of this name."""

    hint = "choose another name, or use the topic that is there"


class InvalidPartitionsError(KafkaError, code=37):
    """The number of partitions is not possible."""

    hint = "ask for at least one; a topic can only grow"


class InvalidReplicationFactorError(KafkaError, code=38):
    """There are not as many brokers as replicas asked for."""

    hint = "lower the replication factor or add brokers"


class InvalidReplicaAssignmentError(KafkaError, code=39):
    """The manual assignment of replicas does not hold together."""

    hint = "name existing brokers, each at most once a partition, for every partition"


class InvalidConfigError(KafkaError, code=40):
    """A configuration key or value is not valid."""

    hint = "check the key's spelling and its type"


class NotControllerError(KafkaError, code=41, retriable=True):
    """This broker is not the controller."""

    hint = "refresh metadata and ask the controller"


class InvalidRequestError(KafkaError, code=42):
    """The request contradicts itself or the protocol."""

    hint = "check the client's version; the broker's log says what was wrong"


class UnsupportedForMessageFormatError(KafkaError, code=43):
    """The records are in a format this broker does not take."""

    hint = "send record batches of magic 2 (clients since Kafka 0.11)"


class PolicyViolationError(KafkaError, code=44):
    """A policy of the cluster forbids it."""

    hint = "ask whoever runs the cluster"


class OutOfOrderSequenceNumberError(KafkaError, code=45):
    """An idempotent producer left a gap in its sequence."""

    hint = "let the producer begin a new epoch; records before it may be lost"


class DuplicateSequenceNumberError(KafkaError, code=46):
    """The batch was appended long ago."""

    hint = "nothing: the records are in the log"


class InvalidProducerEpochError(KafkaError, code=47):
    """A newer instance of this producer has taken over."""

    hint = "stop this one"


class OperationNotAttemptedError(KafkaError, code=55):
    """An earlier part of the request failed, so this one was not tried."""

    hint = "repair the part that failed and repeat"


class KafkaStorageError(KafkaError, code=56, retriable=True, refreshes_metadata=True, name="KAFKA_STORAGE_ERROR"):
    """The broker cannot read or write the partition's files."""

    hint = "look into the broker's log; it names the path"


class LogDirNotFoundError(KafkaError, code=57):
    """The broker has no such log directory."""

    hint = "name one that DescribeLogDirs lists"


class UnknownProducerIdError(KafkaError, code=59):
    """The broker remembers nothing of this producer."""

    hint = "initialise the producer again"


class ReassignmentInProgressError(KafkaError, code=60):
    """The partition is being moved."""

    hint = "wait until the move is done"


class FetchSessionIdNotFoundError(KafkaError, code=70, retriable=True):
    """The broker has forgotten the fetch session."""

    hint = "begin a new session"


class InvalidFetchSessionEpochError(KafkaError, code=71, retriable=True):
    """The fetch session's epoch does not follow."""

    hint = "begin a new session"


class ListenerNotFoundError(KafkaError, code=72, retriable=True, refreshes_metadata=True):
    """The leader has no listener of the name you connected by."""

    hint = "give all brokers the same listeners"


class TopicDeletionDisabledError(KafkaError, code=73):
    """Topics cannot be deleted here."""

    hint = "enable deletion at the broker"


class FencedLeaderEpochError(KafkaError, code=74, retriable=True, refreshes_metadata=True):
    """The request names an older leader epoch than the broker's."""

    hint = "refresh metadata"


class UnknownLeaderEpochError(KafkaError, code=75, retriable=True, refreshes_metadata=True):
    """The request names a newer leader epoch than the broker's."""

    hint = "try again: the broker will hear of it"


class UnsupportedCompressionTypeError(KafkaError, code=76):
    """This version of the API does not know the batch's codec."""

    hint = "use a newer client, or another codec"


class StaleBrokerEpochError(KafkaError, code=77):
    """The broker has registered anew since."""

    hint = "use its new epoch"


class OffsetNotAvailableError(KafkaError, code=78, retriable=True):
    """A new leader does not know its high watermark yet."""

    hint = "try again in a moment"


class PreferredLeaderNotAvailableError(KafkaError, code=80, retriable=True, refreshes_metadata=True):
    """The preferred leader cannot lead now."""

    hint = "wait until it is back in sync"


class EligibleLeadersNotAvailableError(KafkaError, code=83, retriable=True, refreshes_metadata=True):
    """No replica may lead the partition."""

    hint = "bring a replica of its in-sync set back"


class ElectionNotNeededError(KafkaError, code=84, retriable=True, refreshes_metadata=True):
    """The partition has the leader it should have."""

    hint = "nothing"


class NoReassignmentInProgressError(KafkaError, code=85):
    """The partition is not being moved."""

    hint = "nothing"


class InvalidRecordError(KafkaError, code=87):
    """A record breaks the topic's or the format's rules."""

    hint = "repair the record: the message says which rule"


class ThrottlingQuotaExceededError(KafkaError, code=89, retriable=True):
    """The client is over its quota."""

    hint = "wait for the throttle time, then try again"


class ResourceNotFoundError(KafkaError, code=91):
    """There is no such resource."""

    hint = "check its type and name"


class DuplicateResourceError(KafkaError, code=92):
    """The request names a resource twice."""

    hint = "name each once"


class InconsistentVoterSetError(KafkaError, code=94):
    """Sender and receiver disagree on the voters."""

    hint = "check the voters of all controllers"


class InvalidUpdateVersionError(KafkaError, code=95):
    """The update is based on an old version."""

    hint = "read again and repeat"


class FeatureUpdateFailedError(KafkaError, code=96):
    """The features could not be updated."""

    hint = "look into the controller's log"


class SnapshotNotFoundError(KafkaError, code=98):
    """There is no such snapshot."""

    hint = "ask for the newest"


class PositionOutOfRangeError(KafkaError, code=99):
    """The position is outside the snapshot."""

    hint = "begin again at its start"


class UnknownTopicIdError(KafkaError, code=100, retriable=True, refreshes_metadata=True):
    """The broker does not know a topic of this id."""

    hint = "refresh metadata: the topic may have been created anew"


class DuplicateBrokerRegistrationError(KafkaError, code=101):
    """A live broker has this id."""

    hint = "give each broker an id of its own"


class BrokerIdNotRegisteredError(KafkaError, code=102):
    """No broker of this id is registered."""

    hint = "check the id"


class InconsistentTopicIdError(KafkaError, code=103, retriable=True, refreshes_metadata=True):
    """The log belongs to another topic of the same name."""

    hint = "refresh metadata"


class InconsistentClusterIdError(KafkaError, code=104):
    """The request is meant for another cluster."""

    hint = "check the bootstrap address"


class FetchSessionTopicIdError(KafkaError, code=106, retriable=True, name="FETCH_SESSION_TOPIC_ID_ERROR"):
    """The fetch session mixes topic names and ids."""

    hint = "begin a new session"


class IneligibleReplicaError(KafkaError, code=107):
    """The new in-sync set holds a replica that may not join."""

    hint = "wait for its registration"


class NewLeaderElectedError(KafkaError, code=108):
    """The change went in, and the leader changed."""

    hint = "refresh metadata"


class OffsetMovedToTieredStorageError(KafkaError, code=109):
    """The offset is in tiered storage."""

    hint = "read it from there"


class MismatchedEndpointTypeError(KafkaError, code=114):
    """Broker and controller endpoints were mixed up."""

    hint = "connect to the other kind"


class UnsupportedEndpointTypeError(KafkaError, code=115):
    """This kind of endpoint is not supported."""

    hint = "connect to a broker"


class UnknownControllerIdError(KafkaError, code=116):
    """There is no such controller."""

    hint = "check the id"


class InvalidRegistrationError(KafkaError, code=119):
    """The controller does not accept the registration."""

    hint = "look into the controller's log"


class InvalidVoterKeyError(KafkaError, code=125):
    """The voter's key is not the receiver's."""

    hint = "check its directory id"


class DuplicateVoterError(KafkaError, code=126):
    """It is a voter already."""

    hint = "nothing"


class VoterNotFoundError(KafkaError, code=127):
    """It is not a voter."""

    hint = "check id and directory id"


class RebootstrapRequiredError(KafkaError, code=129):
    """The client's picture of the cluster is too old."""

    hint = "bootstrap again"
