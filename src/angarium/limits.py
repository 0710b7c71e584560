"""Every bound has a name here, and its comment says what happens at the bound."""

# Wire protocol. Over a size: TooLarge, close 4413. Over a count: Malformed, close 4400.
FRAME_BYTES_MAX = 256 * 1024
CIPHERTEXT_BYTES_MAX = 64 * 1024
PLAINTEXT_BYTES_MAX = 46 * 1024  # Padded, before base64 inside the seal. Over it: TooLarge.
FRAMES_PER_ARRAY_MAX = 64
ARRIVED_BYTES_MAX = 8 * 1024 * 1024  # Of all connections, not yet looked at: then at once.
RECEIVE_BUFFER_BYTES = (
    64 * 1024
)  # Of the kernel, each connection: what more is sent waits there.
HELLO_WAIT_S = 10.0  # No hello by then: close 4401.

# Sends in flight. Over it: Busy for that send; the connection stays.
SENDS_IN_FLIGHT_PER_CONVERSATION = 8
SENDS_IN_FLIGHT_PER_CONNECTION = 32

# Credit per connection. When used up the node keeps only the cursor; acks reopen it.
CREDIT_MESSAGES = 256
CREDIT_BYTES = 1024 * 1024

# Acks are joined by the client for this long or this many messages, whichever is first.
ACK_DELAY_S = 0.25
ACK_MESSAGES_MAX = 32

RANGE_MESSAGES_MAX = 200  # A `get` over it is answered with `more: true`.
GETS_IN_FLIGHT_PER_CONNECTION = 8  # Over it: Busy.
RECENT_MESSAGES = 64  # Of a conversation in memory; older ones are read from the store.
RECENT_BYTES_MAX = 64 * 1024 * 1024  # Of all conversations; the quietest is forgotten first.
READS_AT_ONCE = 16  # Range reads of one node in the store; the others wait their turn.
ROSTER_AGE_S_MAX = 30.0  # Older: participants and device lists are read again before a send.
ROSTER_RECHECK_S = 0.2  # A list that does not fit is read again unless it is this young.
DEVICE_LISTS_MAX = 20_000  # Cached by a node; the one unused longest is forgotten.
RECEIPTS_WAITING_MAX = 8192  # Marks not yet stored. Over it: dropped; a later mark covers them.
RELISTED_USERS_MAX = 256  # Connected users whose conversations one head check reads again.
PRESENCE_CONVERSATIONS_MAX = 64  # Told of one user's coming and going; the rest is not told.
HELD_MESSAGES_MAX = 512  # A client that holds more drops the newest and asks again.
GET_WAIT_S = 5.0  # A `get` without an answer is asked again then.
RECENT_KEYS_MAX = 64  # Of a conversation: keys a device remembers so that none is sent twice.
OUTBOX_WAITING_MAX = 10_000  # Messages of a device not yet in the log. Over it: Busy.
STREAM_KEYS_MAX = 256  # Of messages whose answers may stream; the oldest is forgotten.

# Heartbeats: any traffic counts as life. Dead: close 4012.
PING_EVERY_S = 25.0
DEAD_AFTER_S = 33.0  # Looked at each second: a dead peer is found within 35 s.

# A connection whose unsent bytes stay above the mark this long, or that acknowledges nothing so
# long while it has no credit left: SlowConsumer, close 4008.
SEND_BUFFER_BYTES_MAX = 4 * 1024 * 1024
SLOW_CONSUMER_WAIT_S = 20.0
SEND_BUFFER_BYTES_CUT = 16 * 1024 * 1024  # Unsent bytes above it: closed 4008 at once.

# Hellos worked on at once, and waiting. Over it: close 4013 with after_ms.
HELLOS_AT_ONCE = 64
HELLOS_WAITING = 1024
HELLOS_WAIT_S = 5.0  # Nor does one wait longer, as batches go now: clients wait HELLO_WAIT_S.
HELLOS_AFTER_S = 2.0  # Who is sent away comes again then, or later.

# Heads are compared so that a lost last doorbell is found (seconds).
HEAD_CHECK_BUS_S = 5.0  # Own doorbells are rung again.
HEAD_CHECK_STORE_S = 5.0  # Conversations of connected devices, many in one query.
HEAD_CHECK_DEAF_S = 1.0  # The same, while the bus does not hear other nodes.
RECHECK_EVERY_S = 1.0  # At most, however often the bus is lost and found.
RELIST_EVERY_S = 30.0  # And which conversations connected users take part in.

# Drain.
DRAIN_SPREAD_S_MAX = 30.0
DRAIN_CONNECTIONS_PER_S = 200
DRAIN_GRACE_S = 45.0  # Connections still open then are closed with 4001.

# Reconnect: full jitter between these two.
RECONNECT_MIN_S = 0.5
RECONNECT_MAX_S = 20.0

# Append: what one commit takes, what may wait. Waiting queue full: Busy.
APPEND_BATCH_MESSAGES = 512
APPEND_QUEUE_MESSAGES = 8192
APPEND_BATCH_BYTES = 8 * 1024 * 1024
APPEND_QUEUE_BYTES = 64 * 1024 * 1024  # Ciphertext waiting to be stored. Over it: Busy.
SENDS_HELD_BYTES_MAX = (
    64 * 1024 * 1024
)  # Slowed down, or waiting for who takes part: then Busy.
APPEND_ATTEMPTS = 16  # Lost races for a sequence, then Unavailable.

PARTICIPANTS_MAX = 64  # Of a conversation. Over it: Refused.
DEVICES_PER_USER_MAX = 16  # Over it: Refused; remove a device first.
CONVERSATIONS_PER_USER_MAX = 1000  # Of a person; one hello names them all. Over it: Refused.
CONVERSATIONS_LEFT_MAX = (
    64  # Of the same people, begun and left in a day. Over it: Unavailable.
)
CONVERSATIONS_PER_HELLO_MAX = 1000  # Cursors in one hello. Over it: Malformed.

# Prekeys.
ONE_TIME_KEYS_PERSON = 50
ONE_TIME_KEYS_AGENT = 100
ONE_TIME_KEYS_STORED_MAX = 500  # More uploaded keys of a device are refused.
SIGNED_OBJECT_BYTES_MAX = 16 * 1024  # A device's or a user's public keys. Over it: TooLarge.
CLAIMS_PER_MINUTE = 60  # Per (claimer, target). Over it: the fallback key is handed out.

# End-to-end sessions.
SESSIONS_PER_DEVICE_MAX = 4  # With one other device. The one unused longest is forgotten.
SESSION_UNANSWERED_MAX = 1000  # Sent without an answer; then a new session is wanted.
SESSION_KEPT_S = 30 * 24 * 3600  # Older: a new session is wanted.
SESSION_RENEW_S = 3600.0  # A session that does not open messages is renewed at most this often.
SESSIONS_RETIRED_MAX = 64  # Remembered by id, so that none is started twice.
FALLBACK_KEY_KEPT_S = 7 * 24 * 3600  # Asked for earlier, the same fallback key is given again.
FORMER_DEVICES_MAX = 64  # Of a user, remembered after removal; the oldest is forgotten.
OPENED_REMEMBERED = 64  # Ciphertexts of a session, to tell a replay from a foreign message.

# A conversation's chain of envelopes.
CHAIN_GAPS_MAX = 64  # Known missing messages of one device; the oldest stays missing for good.
CHAIN_KEYS_MAX = 64  # Message keys remembered; older ones are told by their counter.
CHAIN_OWN_MAX = 1024  # Own messages not yet seen in the log.
CHAIN_WINDOW = 32  # Newest messages remembered, to compare histories with another device ...
CHAIN_ACK_MESSAGES = 16  # ... over at most this many; beyond it no verdict.

# Attachments (ciphertext).
BLOB_BYTES_MAX = 64 * 1024 * 1024
BLOB_CHUNK_BYTES = 1024 * 1024
FILE_READ_BYTES_MAX = 32 * 1024 * 1024  # Read whole by an agent. Over it: TooLarge.
BLOB_KEPT_S = 30 * 24 * 3600
BLOB_UPLOAD_OPEN_S = 24 * 3600  # An unfinished upload is dropped then.
BLOBS_OPEN_PER_USER_MAX = 32  # Unfinished uploads. Over it: Refused.
BLOB_BYTES_PER_USER_MAX = 1024**3  # Kept or begun. Over it: Refused.
BLOB_BYTES_COUNTED_MIN = 64 * 1024  # A smaller attachment counts as this large.

# Ephemeral events (typing, presence, parts) are dropped first; nothing waits for them.
EVENT_BYTES_MAX = 64 * 1024
EVENT_UNSENT_BYTES_MAX = 256 * 1024  # A connection further behind gets no ephemeral events.
TYPING_TTL_MS = 6000
EVENTS_PER_S = 50.0  # Of one connection, a part counting each device named. Over it: dropped.
EVENTS_PER_S_SERVICE = 10_000.0  # Of the product's own devices: the gateway streams for many.
EVENTS_BURST_S = 4.0  # A connection that was quiet may say this many seconds' worth at once.

# Idempotency of commands that are not messages.
COMMAND_KEY_KEPT_S = 24 * 3600
TOMBSTONE_KEPT_S = 30 * 24 * 3600

# Agents.
TURN_ATTEMPTS = 5  # Then a dead letter and an honest message to the person.
TURN_SUSPECT_ATTEMPTS = 2  # Begun so often before this process and not ended: one at a time.
TURN_TIMEOUT_S = 60.0
TURN_FIRST_EVENT_S = 15.0
TURN_QUIET_S = 30.0  # Between two signs of life of an agent.
AGENTS_MAX = 1000  # Of a node. More discovered ones are left out; more declared: Misconfigured.
AGENT_OPEN_S = 30.0  # An agent that is not warm by then is closed and opened again later,
AGENT_REOPEN_MIN_S = 5.0  # ... after pauses that double from here
AGENT_REOPEN_MAX_S = 300.0  # ... to here; its turns may connect by themselves meanwhile.
AGENT_OPENS_AT_ONCE = 16  # The rest waits.
AGENT_START_WAIT_S = 5.0  # A node serves after this, whoever of its agents is not warm yet.
AGENT_LEAVE_S = 120.0  # An agent that was replaced is closed then, even if turns still run.
AGENT_CLOSE_S = 5.0  # A close that takes longer is given up.
AGENT_STOP_S = 5.0  # To clean up when its turn is over; then it is left alone, its place lost.
BURST_QUIET_S = 0.8  # Of a person who writes in pieces, before the answer to all is begun ...
BURST_WAIT_MAX_S = 5.0  # ... but never longer than this.
BURST_MESSAGES_MAX = 16  # Joined in one turn; the next one waits for its own.
REPLY_FILES_MAX = 8  # With one reply; a note stands for those left out ...
REPLY_FILES_BYTES_MAX = 32 * 1024 * 1024  # ... because of this, too.
REPLY_FILE_NAME_CHARS_MAX = 120  # Also of its type.
TRACE_STEPS_MAX = 64  # Tool calls told to operators; the rest is counted.
TRACE_NAME_CHARS_MAX = 100
DEAD_TURNS_KEPT_S = 7 * 24 * 3600  # A failed turn may be replayed so long ...
DEAD_TURNS_MAX = 10_000  # ... of all, the newest so many.
REPLAYS_MAX = 100  # Of one turn. More: the order is dropped.
TURN_STALE_S = 15 * 60  # Older messages get no surprise answer.
# How long people wait for another gateway or bridge when one dies. Shorter, and an agent that
# holds up its process, or a store that elects a primary, would cost turns that run again.
LEASE_TTL_S = 10.0
LEASE_RENEW_S = 2.5
LEASE_RETRY_S = 0.5  # After a renewal that failed.
LEASE_LOOK_S = 0.5  # How often a standby looks whether the lease is free.
UNREAD_TOLD_EVERY_S = 60.0  # Per conversation; a message not readable meanwhile: expired.
TURNS_AT_ONCE = 1024  # Lanes of one gateway.
AGENT_TURNS_AT_ONCE = 512  # Of one agent, so that one that hangs leaves lanes to the others.
AGENT_TURNS_WAITING_MAX = 4096  # For a place at their agent. More: a sentence says it is busy.
AGENT_TRIES = 3  # Of one attempt, before the first event; then the turn waits and tries again.
AGENT_RETRY_MIN_S = 0.1  # Between them, doubling, with jitter; the agent may ask for more ...
AGENT_RETRY_MAX_S = 2.0  # ... up to this.
AGENT_EVENTS_MAX = 100_000  # Of one attempt. More: the agent is stopped.
AGENT_TEXT_BYTES_MAX = 1024 * 1024  # Of one attempt. More: the agent is stopped.
AGENT_EVENTS_IN_A_ROW = 64  # Then others get a turn on the loop.
AGENT_EVENT_S_MIN = 0.0001  # An agent whose events come faster than this floods ...
AGENT_FLOOD_REST_S = 0.01  # ... and rests this long after so many of them.
REPLY_BYTES_MAX = 44 * 1024  # Padded and sealed it fits a ciphertext. Longer: cut, with a note.
TURN_TEXT_CHARS_MAX = 16_000  # A longer message is refused with a sentence; no agent sees it.
TURN_RETRY_MIN_S = 0.5  # Pauses between attempts double from here ...
TURN_RETRY_MAX_S = 8.0  # ... to here.
STORE_RETRY_MAX_S = 30.0  # While the store is away, a lane looks again at least this often.
TURNS_HELD_MAX = 10_000  # Turns queued in memory; the rest is read from the store later.
QUESTION_KEPT_S = 7 * 24 * 3600  # After that a message is a new one, not an answer.
QUESTIONS_PENDING_MAX = 8  # Of a conversation, unanswered. A turn that asks more fails.
QUESTIONS_PER_TURN_MAX = 32  # More: the turn fails.
HANDOFFS_PER_TURN_MAX = 4  # More: the turn fails, agents pass it round in a circle.
JOURNAL_BYTES_MAX = 256 * 1024  # Of one turn. Over it: TooLarge, the turn fails.
MEMORY_BYTES_MAX = 64 * 1024  # Per conversation and agent. Over it: TooLarge, the turn fails.
PERSON_MEMORY_BYTES_MAX = 64 * 1024  # Per person and agent. Over it: TooLarge, the turn fails.
RECALL_EXCHANGES_MAX = 500  # Per person and agent; the oldest is forgotten.
RECALL_CHARS_MAX = 2000  # Of one exchange; the rest is cut.
RECALL_KEPT_S = 90 * 24 * 3600  # Older exchanges are not recalled, and dropped when met.
RECALL_EMBEDDED_AT_ONCE = 64  # Exchanges without a vector, newest first; others go by words.
RECALLED_MAX = 50  # Asked for at once; more are not given.
HISTORY_EXCHANGES_MAX = 20  # Older exchanges are forgotten.
HISTORY_CHARS_MAX = 4000  # Of one text in the history; the rest is cut.
MARKED_CHARS_MAX = 64_000  # Of untrusted text between marks; the rest is cut, with a note.
SCORED_CHARS_MAX = 16_000  # Of a text looked through for orders; the rest is not looked at.
SPEND_KEPT_DAYS = 40  # Older sums are dropped.
SPENDERS_MAX = 20_000  # Sums in memory; the one used longest ago is read again.
USAGE_USD_MAX = 1000.0  # Of one report; more is counted as this.
CONTROL_LOOK_S = 0.5  # How often a gateway looks for what operators of other nodes want.
CONTROLS_WAITING_MAX = 64  # For one conversation. More: Busy.
OPERATOR_NAME_CHARS_MAX = 80
HUMAN_WAIT_S = 10 * 60  # Nobody has come by then: agents answer again, the person is told.
HUMAN_IDLE_S = 30 * 60  # An operator who is silent so long has left.
PART_EVERY_S = 0.05  # After a piece of a reply, the next ones are joined for this long ...
PART_CHARS_MAX = 200  # ... or until they are this long.
STATUSES_PER_TURN_MAX = 100  # More are dropped.
STILL_WORKING_S = 4.0  # Silence after which the person is told that work goes on.

# Requests to agents over HTTP, outside of conversations.
DIRECT_RUNS_MAX = 512  # Of one gateway at once. More: Busy.
DIRECT_RUNS_PER_PERSON_MAX = 16  # At once. More: Busy.
DIRECT_PLACE_WAIT_S = 10.0  # For a place at the agent. Longer: Busy.
DIRECT_EVENTS_WAITING = 64  # Not read by the caller; then the agent waits.
DIRECT_HISTORY_MAX = 200  # Messages of a request that an agent sees; the newest.
API_FILES_MAX = 8  # In one message of a request. More: Malformed.
IDEMPOTENCY_KEY_CHARS_MAX = 255  # Longer: Malformed.

# What is kept of requests, for the next ones.
KEPT_REQUEST_S = 24 * 3600
KEPT_REQUESTS_PER_PERSON_MAX = 16  # The oldest one goes.
KEPT_REQUEST_BYTES_MAX = 64 * 1024  # Beside a journal. Over it the oldest exchanges go.
KEPT_SWEPT_BACK_S = 48 * 3600  # A node that starts looks so far back for what is over.

# Agents that run elsewhere.
REMOTE_BODY_BYTES_MAX = 2 * 1024 * 1024  # Of an answer in one piece. Over it: TooLarge.
REMOTE_EVENT_CHARS_MAX = 1024 * 1024  # Of one event of a stream. Over it: TooLarge.
REMOTE_STREAM_BYTES_MAX = 64 * 1024 * 1024  # Of a whole stream. Over it: TooLarge.
REMOTE_CONNECT_WAIT_S = 2.0  # Longer: Unavailable.
REMOTE_CONNECTIONS_MAX = 256  # To one agent. More turns wait for one; then Unavailable.
REMOTE_IDLE_S = 30.0  # A connection not used for so long is closed.
REMOTE_DRAIN_S = 0.2  # For what follows an answer's end; then the connection is closed.
REMOTE_RETRY_AFTER_S_MAX = 3600.0  # What a remote agent asks for beyond that counts as this.
REMOTE_QUESTIONS_MAX = 8  # Of a remote agent in one turn. More: the turn fails.
REMOTE_FILES_MAX = 8  # In one answer. More: BadReply.

# Models and their tools.
MODEL_REQUESTS_OVER_CALLS = 3  # Requests of a turn beyond its tool calls. More: TurnOverBudget.
MODEL_CONNECT_S = 5.0  # Not connected to a provider by then: Unavailable.
MODEL_READ_S = 120.0  # A provider that says nothing so long: Unavailable.
MODEL_ALIVE_EVERY_S = 1.0  # A model that thinks is a sign of life at most this often.
TOOL_CALLS_MAX = 8  # Of one turn, unless the agent says otherwise. More are refused.
TOOL_CALL_S = 60.0  # A tool of one's own takes longer: stopped, the model is told.
TOOL_RESULT_BYTES_MAX = 12 * 1024  # What a model sees of one result; the rest is cut.
TOOL_RESULTS_BYTES_MAX = 64 * 1024  # Of one turn; later results are cut shorter.
TOOL_TRIES = 3  # Of a `read` or `keyed` call whose failure may pass ...
TOOL_RETRY_MAX_S = 2.0  # ... with pauses up to this; asked to wait longer, it gives up.
APPROVAL_KEPT_S = 3600.0  # A later approval counts as none.
APPROVAL_ARGUMENTS_CHARS_MAX = 2000  # Longer arguments nobody can approve; the call is denied.
ATTACHED_TEXT_BYTES_MAX = 16 * 1024  # Of the text files of one message; the rest is left out.
MCP_OPEN_S = 30.0  # A tool server's start, cold ones included. Later: it is unavailable.
MCP_LIST_S = 10.0
MCP_CALL_S = 60.0  # No answer by then: unavailable, or for `once` an unknown outcome.
MCP_CLOSE_S = 3.0
MCP_PING_S = 2.0  # After a call without an answer; silent again: connected anew.
MCP_TOOLS_TTL_S = 300.0  # A list of tools is read again then, or when its server says so.
MCP_AGAIN_S = 10.0  # A server that did not start is left alone this long.
MCP_TOOLS_MAX = 256  # Of one server; the rest is left out.
MCP_SCHEMA_BYTES_MAX = 32 * 1024  # A tool with a larger schema is left out.
MCP_DESCRIPTION_CHARS_MAX = 2000  # The rest is cut.
MCP_ANSWER_BYTES_MAX = 4 * 1024 * 1024  # Of one HTTP answer. More: the call has failed.
MCP_WARM_MAX = 64  # Connections of one agent; the one unused longest is closed.
MCP_IDLE_S = 600.0  # An unused connection is closed.
LOCAL_MODEL_START_S = 60.0  # A model on this machine that is not ready then: Unavailable.
LOCAL_MODEL_STOP_S = 5.0  # Then it is killed.
LOCAL_MODEL_TOKENS_MAX = 256  # Of one answer of it.
MODEL_FETCH_S = 900.0  # Of `angarium model`; then it says to try again.

# Routing by examples.
ROUTE_EXAMPLES_MAX = 20_000  # Of all agents. More: every agent's are thinned out evenly.
ROUTE_FITTED_MAX = 2000  # Examples that the out-of-scope bound is fitted to.
ROUTE_EXAMPLE_CHARS_MAX = 60  # Of an example in a reason; the rest is cut.
ROUTE_CACHE_S = 3600.0  # A decision is remembered this long ...
ROUTE_CACHE_KEY_S = 24 * 3600  # ... under a key that changes this often.
ROUTE_OPEN_WAIT_S = 10.0  # For the examples, at a start; then it goes on without.
ROUTE_REBUILD_RETRY_S = 30.0  # After examples could not be read.
ACKNOWLEDGEMENT_WORDS_MAX = 4  # A longer text says more than yes, no or thanks.
ACKNOWLEDGEMENT_CHARS_MAX = 80
EMBED_WAITING_MAX = 64  # Texts that wait for the model. Over it: Busy, no examples are asked.
EMBED_BATCH_MAX = 16  # Examples read at once; messages get in between.
EMBED_CHARS_MAX = 600  # Only the beginning of a text is looked at ...
EMBED_TOKENS_MAX = 128  # ... and no more of it read.
EVAL_ANSWER_WAIT_S = 180.0  # To one message of a declared dialogue; then the case fails.
JUDGE_WAIT_S = 5.0  # Then the fallback agent answers.
LANGUAGE_WORDS_MIN = 3  # Shorter texts do not tell their language.
LANGUAGE_TEXT_CHARS_MAX = 400  # Enough to tell it.
LANGUAGES_KEPT_MAX = 32  # People of one conversation; of more, who wrote first is forgotten.
# WhatsApp bridge.
WEBHOOK_BYTES_MAX = 1024 * 1024
OUTBOX_ATTEMPTS = 8
OUTBOX_KEPT_S = 4 * 3600  # A delivery older than this expires unsent.
CONTACT_CONNECTIONS_MAX = 2000
CONTACT_IDLE_S = 600.0
REPLY_WINDOW_S = 24 * 3600

# Limiter defaults.
RATE_PER_MINUTE = 30
RATE_SLOWED_SHARE = 0.5  # Above this share of the rate, answers are slowed before refused.
RATE_SLOW_S_MAX = 2.0
LIMITER_BUCKETS_MAX = 50_000  # The bucket unused longest is forgotten; its owner starts full.

# HTTP.
REQUEST_BYTES_MAX = 1024 * 1024
API_REQUESTS_PER_MINUTE = 600  # Per principal; slowed, then RateLimited. Services are exempt.
USERS_PER_QUERY_MAX = 256  # Of keys/query and devices of keys/claim. Over it: Malformed.
OPEN_FILES_MAX = (
    1_048_576  # Of a node, where the system allows it: connections above are refused.
)
HTTP_CONNECTIONS_MAX = 2048  # More are answered 503 by the server.
HTTP_STOP_WAIT_S = 10.0  # Requests still running then are cut off.
HEALTH_CHECK_WAIT_S = 2.0  # A check that takes longer has failed.
AUDIT_PAGE_MAX = 200

# Embedded store.
STORE_BUSY_MS = 2000  # Another process holds the write lock this long: Unavailable.
STORE_CALLS_WAITING_MAX = 8192  # Reads and writes that wait. Over it: Busy.
STORE_ROWS_PER_STATEMENT = 128  # A power of two; more rows take more statements.
STORE_CONVERSATIONS_CACHED = 16384  # Over it the least recently used head is read again.
STORE_WAL_CHECKPOINT_BYTES = 32 * 1024 * 1024  # From here on it is copied back, beside writes.
STORE_WAL_BYTES_MAX = 128 * 1024 * 1024  # From here on each round waits longer for readers.
STORE_OPEN_ATTEMPTS = 20  # Another process creates the file meanwhile; then Unavailable.

# Remote agents that speak A2A.
A2A_CARD_BYTES_MAX = 256 * 1024  # Of a card. Over it: BadCard.
A2A_CARD_KEPT_S = 3600.0  # Where the card's server does not say how long it holds.
A2A_CARD_KEPT_MIN_S = 60.0  # Looked at again at most this often, whatever it says ...
A2A_CARD_KEPT_MAX_S = 24 * 3600.0  # ... and at least this often.
A2A_CARD_SKILLS_MAX = 32  # Of a card, taken over where the agent declares none itself ...
A2A_CARD_EXAMPLES_MAX = 20  # ... with so many examples each ...
A2A_CARD_CHARS_MAX = 200  # ... of at most this length.
A2A_ANSWER_BYTES_MAX = 16 * 1024 * 1024  # Of one answer or stream. Over it: TooLarge.
A2A_FILES_BYTES_MAX = 8 * 1024 * 1024  # Of a message to it; files beyond are only named.
A2A_FILES_MAX = 16  # That an answer gives. More are dropped.
A2A_STATUS_CHARS_MAX = 500  # Of one progress note; the rest is cut.
A2A_RESUMES_MAX = 5  # A stream that breaks off again without news: Unavailable.
A2A_RESUME_MIN_S = 0.2  # Before looking after a task again, doubling ...
A2A_RESUME_MAX_S = 5.0  # ... to here; also between two polls of an agent without streams.
A2A_POLLS_MAX = 1000  # Of one task. More: Unavailable; it goes on at the next attempt.
A2A_CONNECT_S = 2.0
A2A_CALL_S = 30.0  # One call without a stream. Over it: Unavailable.
A2A_CANCEL_S = 3.0  # Telling a remote agent that nobody waits any more.

# Agents of our own, served over A2A.
A2A_TASK_KEPT_S = 7 * 24 * 3600  # After its last change; then it is not found.
A2A_TASKS_PER_PERSON_MAX = 64  # With one agent. More: the oldest is forgotten.
A2A_TASK_BYTES_MAX = 1024 * 1024  # As it is kept; files, then artifacts, are left out.
A2A_TASK_ID_CHARS_MAX = 64  # A longer name is none of ours.
A2A_ALIVE_EVERY_S = 5.0  # How often a node says that a task still runs there.
A2A_DEAD_AFTER_S = 20.0  # A task nobody says so of was running on a node that is gone.
A2A_PARKED_S = 300.0  # In memory after a question; then it waits in the store alone.

# Housekeeping of a node. Webhooks are kept for deduplication as long as providers repeat them.
HOUSEKEEPING_EVERY_S = 600.0
WEBHOOK_KEPT_S = 8 * 24 * 3600

# Bus over Redis. What does not fit is forgotten, the oldest first: doorbells may be lost.
BUS_WAITING_EVENTS = 16_384
BUS_WAITING_BYTES_MAX = 16 * 1024 * 1024
BUS_MESSAGES_BYTES_MAX = 256 * 1024  # Ciphertext in a doorbell. More: read from the store.
BUS_BATCH_EVENTS = 512  # In one PUBLISH; the rest goes with the next one.
BUS_BATCH_BYTES_MAX = 512 * 1024
BUS_SEND_WAIT_S = 2.0  # A command without an answer has failed then.
BUS_OPEN_WAIT_S = 3.0  # A node starts without Redis after this wait, and hears it later.
BUS_PING_EVERY_S = 3.0  # A silent subscription is asked; silent for two of these: dead.
BUS_RECONNECT_MIN_S = 0.1  # Full jitter, doubling from here ...
BUS_RECONNECT_MAX_S = 2.0  # ... to here.
BUS_TOPICS_CLUSTER = 8  # Of a Redis cluster: all nodes must agree. One server has one topic.

# Connection registry.
NODE_LEASE_S = 10.0  # A node that does not renew is taken for dead then.
NODE_LEASE_RENEW_S = 3.0
REGISTRY_KEPT_S = 3600  # Entries that no node refreshes are forgotten by the server.
REGISTRY_REFRESH_S = 600.0  # Each node writes its own entries again.
REGISTRY_IN_TIME_S = RECONNECT_MIN_S  # An epoch that took longer displaces nobody.
REGISTRY_ENDED_MAX = 20_000  # Ends of connections not yet told; the oldest is forgotten.
REGISTRY_AT_ONCE = 16  # Commands of one node under way; the others wait their turn.

# Soft state that nodes share: rates, breakers, presence. Away, each node goes by its own.
RECEIPTS_RETRY_S = 0.002  # Two nodes make one document at once; grows with each try.
SOFT_WAIT_S = 0.5  # A call to Redis that takes longer has failed; nobody waits for it.
SOFT_AWAY_S = 2.0  # After a failure Redis is left alone this long.
CACHE_VALUE_BYTES_MAX = 64 * 1024  # A larger value is not cached.
CACHE_ENTRIES_MAX = 20_000  # In a process; at it the one used longest ago goes.
RATES_EVERY_S = 0.2  # Nodes tell each other what they let through, at most this often.
RATES_KEYS_AT_ONCE = 256  # In one script; the rest goes with the next.
RATES_DEBT_S_MAX = 300.0  # What several nodes let through too much is paid back up to this.

BREAKERS_LOOK_S = 0.5  # How often a node looks which breakers others opened or closed.
BREAKERS_KEPT_S = 3600  # What nobody says again is forgotten by the server.
BREAKER_PROBE_S = 30.0  # A node whose probe has no outcome by then has died; another may.
BREAKER_ASK_AGAIN_S = 1.0  # A call during another node's probe may come again after this.
PRESENCE_KEPT_S = 60  # What a node said is forgotten by the server when it renews no more.
PRESENCE_USERS_AT_ONCE = 512  # In one command; the rest goes with the next.
PRESENCE_CONNECTIONS_AT_ONCE = 512  # Looked after together; the loop breathes in between.
PRESENCE_LOOK_AGAIN_S = 1.0  # After someone was told to be gone.

# Discovery of agents in Kubernetes.
KUBE_PAGE_OBJECTS = 200  # In one answer; the rest follows in the next.
KUBE_PAGE_BYTES_MAX = 32 * 1024 * 1024  # More: TooLarge, the last known state stays.
KUBE_OBJECTS_MAX = 5000  # Of one kind. More: TooLarge, the last known state stays.
KUBE_LINE_BYTES_MAX = 2 * 1024 * 1024  # One event of a watch. More: everything is listed again.
KUBE_ANSWER_S = 5.0  # To connect, and to answer; the API is away then.
KUBE_WATCH_S = 60  # The API ends a watch then, and the next one goes on from there.
KUBE_WATCH_S_MIN = 1.0  # One that ends earlier is followed by a pause.
KUBE_WATCH_LATE_S = 10.0  # A watch that says nothing for so much longer is dead.
KUBE_RELIST_S = 290.0  # Everything is listed again then, whatever the watches said; or earlier.
KUBE_REWATCHES = 3  # Failures in a row; then everything is listed again.
KUBE_RETRY_MIN_S = 0.2  # Pauses after failures double from here, with jitter ...
KUBE_RETRY_MAX_S = 30.0  # ... to here.
KUBE_JOIN_S = 0.05  # Changes that come together make one new roster.
AGENT_CARD_BYTES_MAX = 64 * 1024  # In an annotation. More: the agent is left out.
AGENT_SKILLS_MAX = 64  # Of a discovered agent; the rest is not looked at.
AGENT_EXAMPLES_MAX = 500  # Of one such skill; the rest is not looked at.
AGENT_EXAMPLE_CHARS_MAX = 500  # A longer one is cut.
AGENT_DESCRIPTION_CHARS_MAX = 1000  # A longer one is cut.
SNAPSHOT_KEPT_S = 900.0  # What other nodes found serves a node that starts, this long.
SNAPSHOT_PIECES_MAX = 16  # Of CACHE_VALUE_BYTES_MAX. A larger one is not shared.
SNAPSHOT_BYTES_MAX = 16 * 1024 * 1024  # Unpacked. A larger one is not read.

# `angarium dev`.
DEV_LOOK_S = 0.5  # How often it looks whether files have changed.
DEV_FILES_MAX = 2000  # Of the project; more are not looked at.

# Instances of one agent.
INSTANCES_MAX = 500  # The rest is not used.
INSTANCE_AVOID_MIN_S = 2.0  # After a failure an instance gets no turns so long, doubling ...
INSTANCE_AVOID_MAX_S = 60.0  # ... to here, unless all fail.
COLD_FIRST_EVENT_S = 60.0  # What may have to start has this long to the first event,
COLD_TURN_S = 120.0  # ... and this long in all.

# Cluster store.
MONGO_CALL_S = 5.0  # One call with its retries, fail-overs included. Over it: Unavailable.
MONGO_MIGRATE_CALL_S = 3600.0  # An index over a large collection takes its time.
MONGO_TIME_EVERY_S = 30.0  # Nodes go by the server's clock, and look at it this often.
MONGO_CLOSE_S = 1.0  # Saying goodbye to a store that may be gone.
MONGO_HEARTBEAT_MS = 1000  # A new primary is noticed at least this often.
MONGO_RETRY_MIN_S = 0.02  # Pauses between tries double from here ...
MONGO_RETRY_MAX_S = 0.5  # ... to here.
MONGO_RACE_S = 0.004  # A lost race for a sequence waits up to this long, doubling ...
MONGO_RACE_MAX_S = 0.05  # ... to here.
MONGO_RACES_MAX = 64  # Of one message; also bounded by MONGO_CALL_S. Then Unavailable.
MONGO_RACES_AT_ONCE = 4  # Races lost before a loser waits at all.
MONGO_NEWER_MAX = 512  # Messages of other nodes read after a lost race; more: asked one by one.
MONGO_RIVAL_S = 2.0  # A node that wrote to a conversation takes turns in it so long ...
MONGO_YIELD_MAX_S = 0.25  # ... each waits at most this for the others, looks, and waits again,
MONGO_TURNS_WAITED_MAX = 3  # at most so often; then it writes, so that nobody starves.
MONGO_STREAK_MIN = 8  # Groups of one node in a row, then a gap for whoever always loses;
MONGO_STREAK_MAX = 64  # while nobody uses it the streaks double to here.
MONGO_MARKS_EVERY_S = 5.0  # Heads noted in a node's journal become marks of conversations ...
MONGO_JOURNAL_MAX = 256  # ... and are marked at once when it is full.
MONGO_ROUNDS_AT_ONCE = 8  # Groups of appends in flight; the rest waits and forms larger ones.
MONGO_STATES_CACHED = 20_000  # Documents of the vault as last seen; others are looked at first.
MONGO_TRACE_KEPT_S = 24 * 3600  # A dropped record leaves a trace: later writes are not undone.
MONGO_RESERVED_S = 900.0  # A dead node's upload that was begun counts as long; clocks differ.
MONGO_CONNECTIONS_MAX = 64  # To each server. Over it calls wait their turn.

# Copying a store.
COPY_ROWS_MAX = 1000  # Rows read and written at once ...
COPY_BATCH_BYTES = 4 * 1024 * 1024  # ... or fewer, as soon as they take this much memory.
COPY_CALL_S = 60.0  # One batch with its retries. Over it: Unavailable; go on later.
COPY_LAPSING_S = 3600  # What a store drops by itself within this time is not compared.
COPY_TOLD_EVERY_S = 5.0  # Lines of progress where the output is not a terminal.
