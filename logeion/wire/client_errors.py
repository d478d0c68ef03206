"""What Kafka's brokers answer about groups, transactions, security and telemetry."""

from __future__ import annotations

from .error_base import KafkaError


class OffsetMetadataTooLargeError(KafkaError, code=12):
    """The metadata of a committed offset is too long."""

    hint = "shorten it or raise offset.metadata.max.bytes"


class CoordinatorLoadInProgressError(KafkaError, code=14, retriable=True):
    """The coordinator is still reading its log."""

    hint = "try again in a moment"


class CoordinatorNotAvailableError(KafkaError, code=15, retriable=True):
    """There is no coordinator at this moment."""

    hint = "find the coordinator again"


class NotCoordinatorError(KafkaError, code=16, retriable=True):
    """This broker does not coordinate the group."""

    hint = "find the coordinator again"


class IllegalGenerationError(KafkaError, code=22):
    """The group has moved to another generation."""

    hint = "join the group again"


class InconsistentGroupProtocolError(KafkaError, code=23):
    """The member shares no protocol with the group."""

    hint = "give all members of the group one assignor in common"


class InvalidGroupIdError(KafkaError, code=24):
    """The group id is not valid."""

    hint = "set a group id that is not empty"


class UnknownMemberIdError(KafkaError, code=25):
    """The coordinator does not know this member."""

    hint = "join the group again with an empty member id"


class InvalidSessionTimeoutError(KafkaError, code=26):
    """The session timeout is outside the broker's bounds."""

    hint = "stay within group.min.session.timeout.ms and group.max.session.timeout.ms"


class RebalanceInProgressError(KafkaError, code=27):
    """The group is rebalancing."""

    hint = "join the group again"


class InvalidCommitOffsetSizeError(KafkaError, code=28):
    """The commit is too large to be one batch."""

    hint = "commit fewer partitions at once"


class TopicAuthorizationFailedError(KafkaError, code=29):
    """The client may not do this with the topic."""

    hint = "ask for the right on this topic"


class GroupAuthorizationFailedError(KafkaError, code=30):
    """The client may not do this with the group."""

    hint = "ask for the right on this group"


class ClusterAuthorizationFailedError(KafkaError, code=31):
    """The client may not do this with the cluster."""

    hint = "ask for the right on the cluster"


class UnsupportedSaslMechanismError(KafkaError, code=33):
    """The broker does not offer this SASL mechanism."""

    hint = "choose one of those it lists"


class IllegalSaslStateError(KafkaError, code=34):
    """The request does not fit the state of authentication."""

    hint = "authenticate first, and once"


class InvalidTxnStateError(KafkaError, code=48):
    """The transaction is not in a state that allows this."""

    hint = "abort it and begin again"


class InvalidProducerIdMappingError(KafkaError, code=49):
    """The producer id does not belong to this transactional id."""

    hint = "initialise the producer again"


class InvalidTransactionTimeoutError(KafkaError, code=50):
    """The transaction timeout is above the broker's limit."""

    hint = "stay below transaction.max.timeout.ms"


class ConcurrentTransactionsError(KafkaError, code=51, retriable=True):
    """The transaction's last step is still under way."""

    hint = "try again in a moment"


class TransactionCoordinatorFencedError(KafkaError, code=52):
    """The sender no longer coordinates this transaction."""

    hint = "wait for the new coordinator"


class TransactionalIdAuthorizationFailedError(KafkaError, code=53):
    """The client may not use this transactional id."""

    hint = "ask for the right on this transactional id"


class SecurityDisabledError(KafkaError, code=54):
    """Security features are off."""

    hint = "configure an authorizer first"


class SaslAuthenticationFailedError(KafkaError, code=58):
    """The credentials were not accepted."""

    hint = "check user and password"


class DelegationTokenAuthDisabledError(KafkaError, code=61):
    """Delegation tokens are off."""

    hint = "enable them at the broker"


class DelegationTokenNotFoundError(KafkaError, code=62):
    """The broker does not know this token."""

    hint = "create a new one"


class DelegationTokenOwnerMismatchError(KafkaError, code=63):
    """The caller neither owns nor renews this token."""

    hint = "act as its owner"


class DelegationTokenRequestNotAllowedError(KafkaError, code=64):
    """Tokens cannot be asked for on this connection."""

    hint = "authenticate by SASL or mutual TLS"


class DelegationTokenAuthorizationFailedError(KafkaError, code=65):
    """The client may not do this with the token."""

    hint = "ask for the right on this token"


class DelegationTokenExpiredError(KafkaError, code=66):
    """The token has expired."""

    hint = "create a new one"


class InvalidPrincipalTypeError(KafkaError, code=67):
    """The principal's type is not supported."""

    hint = "use the type User"


class NonEmptyGroupError(KafkaError, code=68):
    """The group still has members."""

    hint = "stop its members first"


class GroupIdNotFoundError(KafkaError, code=69):
    """There is no such group."""

    hint = "check the group id"


class MemberIdRequiredError(KafkaError, code=79):
    """A member must join with the id the coordinator has just given it."""

    hint = "join again with that id"


class GroupMaxSizeReachedError(KafkaError, code=81):
    """The group is full."""

    hint = "raise group.max.size, or stop a member"


class FencedInstanceIdError(KafkaError, code=82):
    """Another member has taken this group.instance.id."""

    hint = "give each instance an id of its own"


class GroupSubscribedToTopicError(KafkaError, code=86):
    """The group is subscribed to the topic whose offsets should go."""

    hint = "stop its members first"


class UnstableOffsetCommitError(KafkaError, code=88, retriable=True):
    """A transaction that commits these offsets is still open."""

    hint = "try again in a moment"


class ProducerFencedError(KafkaError, code=90):
    """A newer producer has the same transactional id."""

    hint = "stop this one"


class UnacceptableCredentialError(KafkaError, code=93):
    """The credential does not meet the rules."""

    hint = "choose a longer password or more iterations"


class PrincipalDeserializationFailureError(KafkaError, code=97):
    """A forwarded principal cannot be read."""

    hint = "give all brokers the same security settings"


class TransactionalIdNotFoundError(KafkaError, code=105):
    """There is no such transactional id."""

    hint = "check it"


class FencedMemberEpochError(KafkaError, code=110):
    """The coordinator has fenced the member's epoch."""

    hint = "give up all partitions and join again"


class UnreleasedInstanceIdError(KafkaError, code=111):
    """Another member still holds this instance id."""

    hint = "wait until it leaves"


class UnsupportedAssignorError(KafkaError, code=112):
    """The group's coordinator does not have this assignor."""

    hint = "choose one it has"


class StaleMemberEpochError(KafkaError, code=113):
    """The member's epoch is old."""

    hint = "take the new one by a heartbeat, then try again"


class UnknownSubscriptionIdError(KafkaError, code=117):
    """The telemetry subscription is unknown or old."""

    hint = "ask for a new one"


class TelemetryTooLargeError(KafkaError, code=118):
    """The telemetry is too large."""

    hint = "push less"


class TransactionAbortableError(KafkaError, code=120):
    """The transaction failed but can be aborted."""

    hint = "abort it and begin again"


class InvalidRecordStateError(KafkaError, code=121):
    """The record's delivery is not in a state that allows this."""

    hint = "fetch it again"


class ShareSessionNotFoundError(KafkaError, code=122, retriable=True):
    """The broker has forgotten the share session."""

    hint = "begin a new session"


class InvalidShareSessionEpochError(KafkaError, code=123, retriable=True):
    """The share session's epoch does not follow."""

    hint = "begin a new session"


class FencedStateEpochError(KafkaError, code=124):
    """The share group's state has a newer epoch."""

    hint = "read the state again"


class InvalidRegularExpressionError(KafkaError, code=128):
    """The regular expression is not valid."""

    hint = "write it in RE2 syntax"


class StreamsInvalidTopologyError(KafkaError, code=130):
    """The topology is not valid."""

    hint = "repair it"


class StreamsInvalidTopologyEpochError(KafkaError, code=131):
    """The topology's epoch is not valid."""

    hint = "use the current one"


class StreamsTopologyFencedError(KafkaError, code=132):
    """The topology's epoch is old."""

    hint = "use the current one"


class ShareSessionLimitReachedError(KafkaError, code=133, retriable=True):
    """The broker has no room for another share session."""

    hint = "try again later"
