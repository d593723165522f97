"""What may come from outside, and how much of it: every bound, in one table.

A registry, a module, a cloned repository or a server may be hostile, so whatever is read from
one is bounded in size, count, depth and time. A bound is far above what honest modules need; where
it is reached, the error names the bound, what reached it and, where it can be raised, how.

Each constant has its unit in its comment; ``docs/security.md`` has the same table.
"""

from __future__ import annotations

# Manifests and locks ------------------------------------------------------------------------

#: A manifest (``modpkg.toml``, ``pyproject.toml``), bytes.
MANIFEST_BYTES = 1 << 20
#: Tables and arrays inside one another in a manifest.
MANIFEST_DEPTH = 32
#: A lock file, bytes.
LOCK_BYTES = 64 << 20
#: The address of a registry in a lock file, characters.
LOCK_ADDRESS = 4000
#: The signer of a module in a lock file, characters.
LOCK_SIGNER = 2500
#: A number in a manifest or a lock, characters.
NUMBER_CHARACTERS = 100
#: Values of one setting of a step.
SETTING_VALUES = 1000
#: Tokens with a row of their own in a composition's vocabulary.
VOCABULARY_TOKENS = 10_000
#: A token of them, characters.
TOKEN_CHARACTERS = 500
#: Its number.
TOKEN_NUMBER = 100_000_000
#: What the rows of a vocabulary may be a multiple of.
VOCABULARY_MULTIPLE = 1 << 16
#: A layer's number in a step's range.
STEP_LAYERS = 100_000
#: Copies that were merged into a module.
MERGE_PARENTS = 100
#: Choices of a resolution file that a manifest remembers.
MERGE_CHOICES = 10_000
#: ``max-new-tokens`` of a task, tokens.
TASK_NEW_TOKENS = 1_000_000
#: ``temperature`` of a task.
TASK_TEMPERATURE = 100
#: Texts that end a task's answer.
TASK_STOPS = 16
#: A text that ends a task's answer, characters.
STOP_CHARACTERS = 100
#: The time limit that a manifest may give a test, seconds.
DECLARED_TEST_SECONDS = 7 * 24 * 3600
#: Ways in which one licence expression can be met.
LICENSE_ALTERNATIVES = 64

# Registries ---------------------------------------------------------------------------------

#: The address of a registry, characters.
ADDRESS_CHARACTERS = 4000
#: Places on other servers that a registry may list for a blob.
BLOB_PLACES = 16
#: The document that lists them, bytes.
BLOB_PLACES_BYTES = 128 << 10
#: Candidates of a module, decided ones too.
CANDIDATES = 10_000
#: The file that lists them, bytes.
CANDIDATES_BYTES = 64 << 20
#: What was said about a candidate: comments, approvals and reports.
THREAD_ENTRIES = 2000
#: The file that has it, bytes.
THREAD_BYTES = 16 << 20
#: A comment, or the message of a candidate, characters.
COMMENT_CHARACTERS = 20_000
#: A report about a candidate, bytes of its JSON.
CANDIDATE_REPORT_BYTES = 1 << 20
#: Signatures of one release, its yanks too, and keys that one module's keys name.
SIGNATURES = 64
#: The file that has the signatures of a release, bytes; one takes up to some ten thousand.
SIGNATURES_BYTES = 1 << 20
#: The file that has the keys that a module's keys name, bytes; one names up to 2,000 releases.
SUCCESSORS_BYTES = 4 << 20
#: What vouches for releases and was fetched before it is needed, bytes in all.
VOUCHING_AHEAD_BYTES = 32 << 20
#: Copies of what was fetched that wait to be written, bytes in all.
LATE_COPIES_BYTES = 32 << 20
#: Releases that a signer stands by when it names its successor, the newest ones.
SUCCEEDED_RELEASES = 2_000
#: An entry of a registry's log, bytes.
LOG_ENTRY_BYTES = 8192
#: The successor of a release in an entry, characters.
LOG_SUCCESSOR = 1000
#: The file that says where the entry of a release is, bytes.
LOGGED_RELEASE_BYTES = 32 << 10
#: Entries that are to be added to a log next, bytes of their file.
DECIDED_BYTES = 64 << 20
#: The checkpoint of a log, bytes.
CHECKPOINT_BYTES = 64 << 10
#: Signatures on a checkpoint: the log's own, and those of witnesses.
CHECKPOINT_SIGNATURES = 64
#: Entries of a log.
LOG_ENTRIES = 100_000_000
#: Entries of a log that an audit reads.
AUDITED_ENTRIES = 5_000_000
#: What Sigstore's client trusts, bytes of its JSON.
TRUST_CONFIG_BYTES = 1 << 20
#: Redirects that are followed from such a place.
REDIRECTS = 5
#: An answer of a server's API, bytes.
API_ANSWER_BYTES = 16 << 20
#: How long a server may take to verify and publish what was uploaded, seconds.
COMMIT_SECONDS = 7200
#: ``registry.json``, bytes.
REGISTRY_INFO_BYTES = 1 << 20
#: Names that one command resolves from one registry. This and the next eight, but
#: for that of a line, are defaults,
#: which ``[limits]`` in ``config.toml`` changes.
RESOLVED_NAMES = 2000
#: Releases of these names.
RESOLVED_RELEASES = 150_000
#: Requirements of these releases and their extras.
RESOLVED_REQUIREMENTS = 600_000
#: Index files that one command reads from one registry, bytes in all; a release has some hundred.
INDEX_BYTES = 128 << 20
#: A line of an index file, bytes; a release has some hundred.
INDEX_LINE_BYTES = 4 << 20
#: Values (texts, numbers, lists) in these files, by their commas: each takes memory.
INDEX_VALUES = 4_000_000
#: Records and other small files that one command fetches from one registry, bytes in all.
FILE_BYTES = 4 << 30
#: Requests for small files that one command makes to one registry.
REQUESTS = 50_000
#: Steps (conflicts) of the solver, in one command.
SOLVER_WORK = 200_000
#: What tensors may unpack to beyond what was fetched and what they are decoded on, bytes.
UNPACKED_BYTES = 1 << 30
#: A release record or an interface that is kept in memory after it was read, bytes.
KEPT_RECORD_BYTES = 4 << 20
#: Index files that one command asks one registry for because what is not verified requires them.
HINTED_FILES = 256
#: One of these files, and the line that requires it, bytes; what is longer is fetched if needed.
HINTED_FILE_BYTES = 64 << 10
#: ``modules.jsonl``, bytes.
MODULES_BYTES = 64 << 20
#: ``modules.jsonl``, where it only spares questions about other files, bytes.
MODULES_AHEAD_BYTES = 256 << 10
#: The same, for each module about which a question may be spared, bytes.
MODULES_AHEAD_BYTES_OF_NAME = 4 << 10
#: ``modules.jsonl``, where it only tells which name may be meant, bytes.
MODULES_HINT_BYTES = 4 << 20
#: Lines of ``modules.jsonl``.
MODULES_LINES = 400_000
#: Values in ``modules.jsonl``, by its commas; a line has about ten.
MODULES_VALUES = 6_000_000
#: ``advisories.jsonl``, bytes.
ADVISORIES_BYTES = 64 << 20
#: One advisory, bytes.
ADVISORY_BYTES = 256 << 10
#: Values in ``advisories.jsonl``, by its commas; an advisory has some dozen.
ADVISORIES_VALUES = 2_000_000
#: Records that a build, or publishing it, reads to find what an object store has of its tensors.
RELATED_RECORDS = 64
#: Tensors in these records, after which no other one is read.
RELATED_TENSORS = 400_000
#: Releases of a name that a module requires, among these records.
RELATED_VERSIONS = 4
#: A release record or an interface, bytes; a tensor takes some hundred.
RECORD_BYTES = 128 << 20
#: Values in a release record or an interface, by its commas; a tensor has about ten.
RECORD_VALUES = 4_000_000
#: Any other file that is read into memory (a tokenizer, test cases), bytes.
SMALL_FILE_BYTES = 256 << 20
#: The ETag of an index file, characters; with a longer one the file is fetched each time.
ETAG_CHARACTERS = 512
#: A file of credentials of a cloud, bytes.
CREDENTIALS_BYTES = 1 << 20

# The network --------------------------------------------------------------------------------

#: Opening a connection, seconds.
CONNECT_SECONDS = 10
#: Silence of a server, before its answer begins or within it, seconds.
SILENCE_SECONDS = 30
#: The beginning of an answer, with all attempts, seconds; a flood of 1xx is none.
ANSWER_SECONDS = 60
#: The slowest answer: bytes per second, on average over `SILENCE_SECONDS`.
SLOWEST_BYTES_PER_SECOND = 1000
#: Reading one small file, with all attempts, seconds.
SMALL_FILE_SECONDS = 900
#: What a server may ask for, all in all, before a request is tried again (Retry-After), seconds.
RETRY_AFTER_SECONDS = 300
#: Sending a part of 8 MiB (8 are sent at once), or a small file, to an object store, seconds.
UPLOAD_PART_SECONDS = 600
#: The time in which a large file may be sent to an object store again after a failure, seconds.
UPLOAD_SECONDS = 3600
#: How often a change of a registry begins again since others changed the same file meanwhile.
CHANGE_ATTEMPTS = 100
#: What an attempt at a range of a pack has to bring, to count as progress, bytes.
PROGRESS_BYTES = 64 << 10

# Servers ------------------------------------------------------------------------------------

#: Blobs of a publishing session.
SESSION_BLOBS = 20_000
#: A release record that is sent when a session begins; a longer one is uploaded, characters.
SESSION_RECORD_CHARACTERS = 2_000_000
#: A tensor of an upload that is a change of another, which a server decodes in memory, bytes.
DECODED_TENSOR_BYTES = 8 << 30
#: What a candidate is for, as it is submitted, characters.
SESSION_MESSAGE_CHARACTERS = 20_000

# Hubs ---------------------------------------------------------------------------------------

#: An answer of a hub about a repository, bytes; a file in it takes some hundred.
HUB_ANSWER_BYTES = 32 << 20
#: Values in such an answer, by its commas and brackets; a file in it has about ten.
HUB_ANSWER_VALUES = 1_200_000
#: Such an answer, seconds.
HUB_ANSWER_SECONDS = 120
#: Files of a repository.
HUB_FILES = 100_000
#: How long a hub that limits requests may make one wait, with all attempts, seconds; its windows
#: are of five minutes.
HUB_WAIT_SECONDS = 300
#: A model card, bytes.
CARD_BYTES = 1 << 20
#: What stands in YAML at the head of a model card, characters.
CARD_HEAD_CHARACTERS = 1 << 18
#: Values of it, where what is repeated by an alias or a merge key counts each time.
CARD_VALUES = 20_000
#: Tables and lists inside one another in it.
CARD_DEPTH = 20
#: Entries of a list of a model card that a manifest takes.
CARD_ENTRIES = 100
#: One of these entries, characters.
CARD_ENTRY_CHARACTERS = 200

# OCI registries -----------------------------------------------------------------------------

#: A manifest of an OCI registry, or the config that it names, bytes.
OCI_MANIFEST_BYTES = 4 << 20
#: Layers in such a manifest.
OCI_LAYERS = 10_000
#: Any other answer of an OCI registry that is no file, such as a token, bytes.
OCI_ANSWER_BYTES = 1 << 20
#: Repositories of an OCI registry, and registries, of which is noted what was pushed there, each.
OCI_SOURCES = 16
#: The answer of a credential helper, seconds.
HELPER_SECONDS = 30
#: Signing with an identity, for which Sigstore's client asks three services, seconds.
IDENTITY_SECONDS = 120

# Environments -------------------------------------------------------------------------------

#: What stays free on the disk that is fetched to, bytes.
DISK_RESERVE = 16 << 20
#: Files in the folder of an installed model.
MODEL_FILES = 100_000

# Tensors ------------------------------------------------------------------------------------

#: The header of a safetensors file, bytes; the same as in safetensors.
WEIGHTS_HEADER_BYTES = 100_000_000
#: The name of a tensor, characters.
TENSOR_NAME_CHARACTERS = 2000
#: The window of a zstd frame, bytes; it bounds the memory of decoding.
DELTA_WINDOW_BYTES = 8 << 20
#: Bytes of tensors in a release that are equal to another one of it.
REPEATED_BYTES = 1 << 30
#: Bytes of tensors in a release, for each byte of different ones, where they are more than that.
REPEATED_TIMES = 16
#: Earlier tensors that a tensor is decoded on, one after the other.
DELTA_CHAIN = 4

# Adapters -----------------------------------------------------------------------------------

#: A pattern in an adapter's config, characters.
PATTERN_CHARACTERS = 10_000
#: Opening parentheses in a pattern.
PATTERN_GROUPS = 500
#: Patterns in a table of an adapter's config.
PATTERN_COUNT = 20_000
#: Names in ``modules_to_save`` and ``layers_pattern``, each.
SAVED_MODULES = 1000
#: Terms of the series by which OFT and PSOFT invert a matrix.
NEUMANN_TERMS = 1000
#: Tensors of a base whose layers an adapter repeats.
REPLICATED_TENSORS = 500_000
#: Groups within groups in a pattern: `re` parses them recursively.
PATTERN_DEPTH = 40
#: Characters in a range of a pattern, as ``[a-z]``: `re` goes through each.
PATTERN_RANGE = 256
#: Places that all patterns of one adapter may look at: a second or two.
PATTERN_WORK = 500_000
#: Steps that `re` may take at worst where it matches one name: some milliseconds.
PATTERN_STEPS = 1_000_000
#: The name of a parameter of an adapter, characters.
PARAMETER_CHARACTERS = 1000
#: Layers that ``layer_replication`` asks for.
REPLICATED_LAYERS = 1000
#: Composed modules inside one another.
COMPOSED_DEPTH = 32
#: Models within a base that an adapter of one of them is tried on.
MODELS_WITHIN = 50
#: Butterfly factors of BOFT.
BOFT_FACTORS = 20
#: Parameters of one module that an adapter changes; more would take too many trials to tell apart.
EXPERT_WRAPPERS = 4

# Configs ------------------------------------------------------------------------------------

#: Tables and arrays inside one another in a config.
CONFIG_DEPTH = 50
#: A count of layers, experts or heads in a config.
CONFIG_LAYERS = 10_000
#: Any other number in a config that is named for layers, blocks or stages.
CONFIG_BLOCKS = 100_000
#: Modules, parameters and buffers of a model that is built, beside those that its tensors fill.
BUILT_PARTS = 3000
#: Modules, parameters and buffers for each tensor; models have less than four.
BUILT_PARTS_PER_TENSOR = 20
#: Memory of a model that is built, beside what its tensors hold, bytes: tables and masks.
BUILT_BYTES = 256 << 20
#: A count of labels or classes in a config: transformers makes a table of them.
CONFIG_LABELS = 500_000
#: Tokens that a state-space model takes at once: it fills up each text to as many.
CONFIG_CHUNK = 4096
#: A text file in which paths of the author's machine are looked for, bytes; larger ones are kept
#: as they are.
CLEANED_FILE_BYTES = 64 << 20
#: Tables and arrays inside one another in such a file.
CLEANED_FILE_DEPTH = 20

#: Values in a JSON file of a model, by its commas; the largest tokenizers have half as many.
JSON_VALUES = 3_000_000

# Chat templates -----------------------------------------------------------------------------

#: Processor time for one conversation, seconds.
TEMPLATE_SECONDS = 2.0
#: Time for one conversation on a busy machine, seconds.
TEMPLATE_WAIT_SECONDS = 8.0
#: Memory of the process that renders, beside its own start, bytes.
TEMPLATE_MEMORY_BYTES = 256 << 20
#: Characters of a rendered conversation, beside four for each of its own.
TEMPLATE_OUTPUT_CHARACTERS = 1 << 18
#: A chat template itself, characters.
TEMPLATE_CHARACTERS = 1 << 20
#: Templates of one model that `build` renders.
TEMPLATES_RENDERED = 5

# Recipes of mergekit ------------------------------------------------------------------------

#: A recipe, bytes.
RECIPE_BYTES = 1 << 18
#: Values of a recipe, where what is repeated by a YAML alias or a merge key counts each time.
RECIPE_VALUES = 20_000
#: Mappings and lists inside one another in a recipe.
RECIPE_DEPTH = 20

# Tokenizers and generation ------------------------------------------------------------------

#: How many times longer all replacements of a tokenizer may make a text.
TOKENIZER_GROWTH = 100
#: Characters that a tokenizer puts before a text.
TOKENIZER_ADDED_CHARACTERS = 10_000
#: Pieces of a tokenizer's template, and tokens of one piece.
TOKENIZER_PIECES = 1000
#: Tokens to which a tokenizer pads a text.
TOKENIZER_PADDING = 1_000_000
#: Beams, groups of beams and texts that a generation config asks for, each.
GENERATION_BEAMS = 64
#: Tokens that a generation config guesses ahead.
GENERATION_GUESSES = 1000
#: New tokens that a generation config asks for.
GENERATION_TOKENS = 1_000_000

# GGUF ---------------------------------------------------------------------------------------

#: Metadata and tensor table of a GGUF file, bytes.
GGUF_HEADER_BYTES = 1 << 29
#: Elements of one array of the metadata; the largest vocabularies have a million.
GGUF_ELEMENTS = 1 << 23
#: One text of the metadata, such as a chat template, bytes.
GGUF_TEXT_BYTES = 1 << 24
#: The alignment of tensors, bytes.
GGUF_ALIGNMENT_BYTES = 1 << 20
#: Layers of a model.
GGUF_LAYERS = 1000

# Tests --------------------------------------------------------------------------------------

#: A file of test cases, bytes.
CASES_BYTES = 1 << 30
#: Cases in a file.
TEST_CASES = 1_000_000
#: What the columns of a Parquet file of cases unpack to, bytes.
CASES_UNPACKED_BYTES = 256 << 20
#: Values in these columns, with those of lists.
CASES_VALUES = 5_000_000
#: The footer of such a file, bytes; it takes many times as much memory.
CASES_FOOTER_BYTES = 8 << 20
#: A dictionary of such a file, bytes unpacked; writers end theirs at one or two million.
CASES_DICTIONARY_BYTES = 32 << 20
#: Columns of row groups of such a file, those that are not read too.
CASES_CHUNKS = 30_000
#: Pages of the columns that are read.
CASES_PAGES = 100_000
#: Values in one case of JSONL, by its commas.
CASE_VALUES = 1_000_000
#: A text of a case, characters.
CASE_CHARACTERS = 1_000_000
#: One test on one model, seconds, unless the test or ``--timeout`` says otherwise.
TEST_SECONDS = 1800.0
#: Memory of the process that runs tests, beside the weights: a share of the machine's.
TEST_MEMORY_SHARE = 0.9
#: Start of the process that runs tests, seconds.
WORKER_START_SECONDS = 600.0

# Signed metadata of a registry --------------------------------------------------------------

#: ``tuf/N.root.json`` and ``tuf/timestamp.json``, bytes.
TUF_ROOT_BYTES = 64 << 10
#: A snapshot, bytes; there are up to 4,096 bins, and those before them.
TUF_FILE_BYTES = 2 << 20
#: Values in it, by its commas.
TUF_VALUES = 100_000
#: A bin, or what says who signs them, bytes; one of 2,000 names, which is spread, has half as many.
TUF_BIN_BYTES = 1 << 20
#: Values in it, by its commas; a name has three to five.
TUF_BIN_VALUES = 20_000
#: Bins of one registry that one command reads, bytes in all; 100,000 names take some 20 million.
TUF_BINS_BYTES = 64 << 20
#: What was fetched of these before it is needed, bytes in all.
TUF_AHEAD_BYTES = 32 << 20
#: Signatures of a root.
TUF_SIGNATURES = 64
#: Signatures of any other file below ``tuf/``, which servers sign.
TUF_ONLINE_SIGNATURES = 16
#: Roots that a reader takes with one command.
TUF_ROOTS = 256

# What is shown ------------------------------------------------------------------------------

#: One value in a sentence, characters; what is longer is cut off.
SHOWN_CHARACTERS = 1_000
#: A whole message, an error or a warning, characters; what is longer is cut off.
MESSAGE_CHARACTERS = 20_000
