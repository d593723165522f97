"""The sentence of each error, by code: what happened, to what, and what to do.

Codes are grouped by room: M1 names and manifests, M2 releases, M3 registries, M4 resolving and
locking, M5 transfer, store and environments, M6 composing, M70 running, M71 and M72 tests,
M73 to M75 patches and merges, M76 versions, M77 licences, M79 bisecting, M8 import and export,
M9 the command line. A code, once released, keeps its meaning; the classes that can be caught
are in `modpkg.core.errors`.
"""

from __future__ import annotations

TO_LOCK = "run 'modpkg lock' to create it"
"""The remedy of M411 where the lock is a project's own."""

MESSAGES: dict[str, str] = {
    "M101": (
        "{name!r} is not a module name: use letters, digits, '-', '_' and '.', beginning and "
        "ending with a letter or digit."
    ),
    "M102": ("{version!r} is not a version: write it like 2.1.0 or 3.0rc1."),
    "M103": (
        "{requirement!r} is not a requirement ({reason}): write it like 'summarizer>=2.1', "
        "'summarizer[news]~=2.0', summarizer@2.1 or summarizer@^2.1."
    ),
    "M104": ("{digest!r} is not a digest: it has to be 'sha256:' and 64 lower-case hex digits."),
    "M105": (
        "{path!r} is not allowed as a path in a release ({reason}): use relative paths with "
        "'/' that stay inside the module."
    ),
    "M106": (
        "{license} is not an SPDX licence expression{hint}; write it like 'Apache-2.0', 'MIT "
        "OR Apache-2.0', or 'LicenseRef-' and your own name for it."
    ),
    "M107": (
        "{alias!r} is not an alias of a registry: use letters, digits, '-', '_' and '.', and "
        'put the address under [registries], like: acme = "https://models.acme.example".'
    ),
    "M108": (
        "{specifier!r} is not a version specifier{reason}; write it like '>=2.1', '>=1,<2', "
        "'~=2.0', '^2.1', '==2.1.0', or '*' for any version."
    ),
    "M109": (
        "{cutoff!r} is not a cut-off: write a date like '2026-01-01', a time like "
        "'2026-01-01T12:00:00Z', or a span before now like '7 days' (minutes, hours, days, "
        "weeks)."
    ),
    "M110": "{where}: {message}",
    "M111": (
        "There is no modpkg.toml (and no [tool.modpkg] in pyproject.toml) in {folder} or above "
        "it; {remedy}."
    ),
    "M112": "{path} describes {found}, but this command needs {needed}; {remedy}",
    "M115": (
        "{text!r} does not name one release; write the name and the version of a base, like "
        "{example!r}."
    ),
    "M116": (
        "--against {against} is not a release that --base {base} allows; correct one of them."
    ),
    "M201": "{path} is not a valid safetensors file: {reason}; fetch or build it again.",
    "M202": (
        "{path} is {what}, and a module contains only data; remove it, leave it out with 'exclude' "
        "under [files], or convert weights to safetensors first."
    ),
    "M203": ("{path} is a link, and a release has only regular files; replace it with the file."),
    "M204": (
        "{folder} has no *.safetensors file, and a module of kind {kind!r} needs {needs}; "
        "'modpkg import' makes a module from a model directory or file."
    ),
    "M205": "Tensor {tensor!r} is both in {first} and in {second}; keep it in one of them.",
    "M206": "{path}: {reason}.",
    "M207": (
        "No tensor of {module} matches {base}: {example!r} needs {target!r}, which the base does "
        "not have. {module} was made for another base, or names layers in another way than "
        "PEFT's save_pretrained does for this one."
    ),
    "M208": "Tensor {tensor!r} of {module} cannot be matched to {base}: {reason}.",
    "M209": "{what} is not a valid {kind}: {reason}; {remedy}.",
    "M210": (
        "{where}: a module of kind {kind!r} acts on a base{found}; list the base it was trained on "
        "under [dependencies], like 'smollm2-135m = \">=1.0,<2\"'."
    ),
    "M211": "{where}: {path} does not exist; {remedy}.",
    "M212": (
        "{what} cannot be decoded: {reason}; it is damaged or was encoded wrongly, and was "
        "not used. Ask the registry's owner to restore it."
    ),
    "M213": (
        "{folder} is not whole: it lacks {files}, named by {index}; fetch the folder again, or "
        "copy what is missing."
    ),
    "M214": ("{file} is not part of {module}: {reason}; remove it, or exclude it under [files]."),
    "M215": (
        "{module} cannot be built on {base}, whose weights are quantised ({form}), as {sign} "
        "shows. {remedy}"
    ),
    "M216": "{what} does not fit its architecture: {reason}; {remedy}.",
    "M217": (
        "{tensor!r} of {what} has {count} non-finite values (NaN or infinity), and nothing could "
        "be composed with it; fix the training that produced it."
    ),
    "M218": (
        "{model} is composed of modules that are composed of others, more than {most} deep, as "
        "{module} is; publish one of them with the weights that it is composed to."
    ),
    "M219": (
        "{model} is composed of itself: {path}; take it out of one of these recipes, or choose "
        "another version of the module that leads back to it."
    ),
    "M220": (
        "{tensor!r} of {module} has shape {shape} and no values: it was saved under ZeRO-3 without "
        "gathering. Save it again with stage3_gather_16bit_weights_on_model_save = true, or make "
        "it from the checkpoint with zero_to_fp32.py."
    ),
    "M221": (
        "{module} reads the virtual tokens of {tokens}, which no tensor has, so nothing can be "
        "composed of it; compose the others without it, and add {tokens} to the last recipe."
    ),
    "M226": (
        "{model}: {tensor!r} of {module} has {rows} rows, one for each token, and that of {base} "
        "has {expected}; to merge the rows of the same tokens, write "
        'vocabulary = {{ source = "union" }} into the recipe, or the name of the module whose '
        "tokens the result is to have."
    ),
    "M235": (
        "The recipe of {module} cannot be composed of the releases that resolve now ({releases}): "
        "{reason}. Correct [compose], or the versions under [dependencies]."
    ),
    "M236": (
        "{what} cannot be merged again: {parent} has other weights than the copy that was merged; "
        "give the folder as it was."
    ),
    "M237": (
        "{what} was merged to {expected}, and now to {actual}: it was made by another version of "
        "modpkg, or its manifest was changed."
    ),
    "M238": ("{what} cannot give factors: {reason}; leave --factors out, and they are searched."),
    "M239": ("{what} is of kind {kind!r}, and a patch is for whole weights: {remedy}."),
    "M240": "{path} exists, and is not replaced; choose another file.",
    "M241": "{path} has no [compose], so that there is nothing to compose; leave --composed out.",
    "M242": "The model {model} of the recipe {path} cannot be taken along: {reason}.",
    "M301": (
        "There is no registry at {url}: it has no registry.json; {remedy}, name another "
        "with --registry, MODPKG_REGISTRY or under [registries] in modpkg.toml or config.toml, or "
        "publish to it once to create it."
    ),
    "M302": ("The registry at {url} could not be read: {reason}; try again, or use --offline."),
    "M303": (
        "The registry at {url} has spec version {spec}, and this modpkg supports versions up to "
        "{known}; update modpkg."
    ),
    "M304": "There is no module named {name!r} in the registry {registry}{hint}.",
    "M305": (
        "{what} has the digest {actual}, not {expected}: it was damaged or tampered with at "
        "{source}, and was not used. Ask the registry's owner to restore it."
    ),
    "M306": (
        "{what} ({digest}) is missing from {source}; ask the registry's owner to restore it, or "
        "name another with --registry, MODPKG_REGISTRY or under [registries] in modpkg.toml."
    ),
    "M307": (
        "{name} {version} is already published in {registry} with different content. Published "
        "versions are never replaced; raise the version in {manifest}."
    ),
    "M309": (
        "Cannot publish to {url}: {reason}; set --registry to a folder or bucket that you can "
        "write to."
    ),
    "M310": (
        "The index of {registry} has {claim} for {name} {version}, and its release record has "
        "{truth}: the registry was damaged or tampered with, and the release was not used. Ask the "
        "registry's owner to restore it."
    ),
    "M311": "Nothing to publish in {folder}; run 'modpkg build' first.",
    "M312": "{name} {version} is not in the registry {registry}{hint}.",
    "M313": (
        "The registry at {url} answers 410 Gone to {path}: it was removed for good; ask its owner "
        "for the new address, and write it under [registries]."
    ),
    "M314": "The registry at {url} {reason} ({status}); {remedy}.",
    "M315": (
        "The credentials in {config} for {url} are not sent over plain http, where others can "
        "read them; use an https:// address."
    ),
    "M316": (
        "The address of {url} contains a user or a password, which others may see; remove it, and "
        "write it into {config}."
    ),
    "M317": (
        "{name} {version} was built for another registry: {count} of its packs are neither in its "
        "build nor in {registry}; run 'modpkg build --registry {registry}' and publish again."
    ),
    "M318": (
        "{source} {alias} can be the folder ./{alias} or the alias {alias!r} of {address}; write "
        "{source} ./{alias} for the folder, or the address."
    ),
    "M319": "{name} {why}; say which is meant: run {commands}.",
    "M320": "Reading the registry at {url} needs credentials, and {reason}; {remedy}.",
    "M327": (
        "{path} of the registry at {url} is over its bound of {most}, and was not read; ask the "
        "registry's owner to repair it."
    ),
    "M328": (
        "The registry at {url} asks for more than {most} {things} ({example}), which is what one "
        "command may take from a registry. If that is right, write {key} = {more} under [limits] "
        "in {config}, and run it again."
    ),
    "M329": (
        "The build in {folder} is damaged: {reason}. Nothing was published; run 'modpkg build' and "
        "publish again."
    ),
    "M877": (
        "{what} is kept at {address}, and that file {reason}. Nothing of it was used; {remedy}."
    ),
    "M878": "{what} is kept at {address}, which could not be read: {reason}; try again later.",
    "M879": (
        "{what} is kept at {address}, and {host} is no host that files are fetched from. If it is "
        "one that you trust, add it to hosts under [places] in {config}."
    ),
    "M887": (
        "{name} {version} has weights that {reason}, so they have to be uploaded; publish it "
        "without --by-reference."
    ),
    "M401": "No set of versions satisfies all requirements:\n{explanation}",
    "M402": "{name!r} is not in {path}, so it cannot be updated{hint}.",
    "M403": (
        "In {most} steps, the solver found neither versions that fit together nor a reason why "
        "there are none, for {roots}. Narrow the ranges of what is required, or write "
        "solver-work = {more} under [limits] in {config}, and run it again."
    ),
    "M406": (
        "These modules are not in the registries that they are asked of; correct the names, or the "
        "registries:\n{facts}"
    ),
    "M410": "{path}: {reason}; run 'modpkg lock' to regenerate it.",
    "M411": "No lock file {path}; {remedy}.",
    "M412": "{path} is out of date with {against} ({reason}); {remedy}.",
    "M413": (
        "{name} was locked from the registry {locked!r}, but {how} the registry {actual!r}; "
        "{remedy}."
    ),
    "M414": (
        "{module} was made for another {base} than {base} {version} ({drift}), and only exact fits "
        "are allowed; run 'modpkg lock --strict' for versions that fit exactly, or leave out "
        "--strict (and 'strict' under [resolution]) to allow it."
    ),
    "M415": (
        "{name} {version} requires modpkg {specifier}, and this is modpkg {engine}; upgrade "
        "modpkg, or run 'modpkg update {name}' for another version."
    ),
    "M416": (
        "What is locked or installed here has changed: {changes}. Ask who keeps the registry; if "
        "it is what you want, run the command again with {options}."
    ),
    "M420": (
        "{where}: the module was made against {name} {version}, which {registry} does not "
        "have{hint}; publish that release there, or correct 'against' under [module]."
    ),
    "M421": (
        "{module} fits several releases of {base}, whose weights differ where it acts: {versions}. "
        "Say which one it was trained on: write 'against = \"{release}\"' under [module], or pass "
        "--against {release}."
    ),
    "M422": (
        "--against names {given}, but {where} has {written}; leave one of them out, or correct it."
    ),
    "M430": (
        "The token is not valid: it is wrong, expired or revoked; run 'modpkg login' for a new one."
    ),
    "M431": "To {action} {module}, log in first: run 'modpkg login'.",
    "M432": (
        "{name} may not {action} {module}; ask its owner or an administrator for the right, or use "
        "a token that has it."
    ),
    "M433": (
        "The name or the password is wrong; try again, or ask an administrator for a new password."
    ),
    "M434": "There were too many failed attempts; try again in {seconds} seconds.",
    "M435": "{name!r} cannot be the name of a new account: {reason}; choose another.",
    "M436": "The password cannot be used: {reason}; choose another.",
    "M437": (
        "{reason}, and nobody gets an account here without an invitation; ask an administrator of "
        "the registry for one."
    ),
    "M438": "The token cannot be made: {reason}; ask for less.",
    "M439": "There is no {what} {name!r} here; check the name, and that you may see it.",
    "M440": (
        "{name} is the last owner of {what}, which would be left without one; make somebody else "
        "an owner first."
    ),
    "M441": "{module} is not offered to {name}; ask its owner for 'modpkg owner transfer'.",
    "M442": "The token of {issuer} is refused: {reason}; begin again, for a new one.",
    "M443": (
        "{module} has no trusted publisher for this job ({job}); an owner of {module} adds one on "
        "its page."
    ),
    "M444": (
        "{name} looks like {other}, which exists, and could be taken for it; choose a name that "
        "differs more."
    ),
    "M445": (
        "{name} is nearly {other}, which many use: is it a typing error? If not, publish again "
        "with --confirm-name."
    ),
    "M446": "The form is not of this login any more; load the page again, and send it again.",
    "M447": "{issuer} cannot be asked who somebody is: {reason}; {remedy}.",
    "M448": (
        "{module} is public and would need {name}, which is private here; publish {module} "
        "without it, or under a new name as a private module."
    ),
    "M449": "This cannot be done: {reason}.",
    "M450": (
        "The server has no publishing session {id} of yours: it has expired, was given up, "
        "or never was; run 'modpkg publish' again."
    ),
    "M451": (
        "The server takes no more: {what} would be {count} {unit}, and {most} are allowed; ask who "
        "runs it for more, or publish less."
    ),
    "M452": (
        "What was declared of {module} {version} does not agree with its release record "
        "({reason}); build it again and publish that."
    ),
    "M453": (
        "{module} is archived ({reason}): nothing more is published of it; ask an owner to undo "
        "that, or publish it under another name."
    ),
    "M454": (
        "The upload of {digest} was to go on at byte {offset}, but the server has {found} bytes; "
        "run 'modpkg publish' again, which goes on there."
    ),
    "M455": "Somebody else is at work on {what}; wait for a moment and try again.",
    "M456": (
        "The session lacks {count} of its blobs ({digest}, for one); run 'modpkg publish' again, "
        "which uploads them."
    ),
    "M457": (
        "{module} has releases here, and nobody has a right to it; ask an administrator to run "
        "'modpkg registry rebuild' and to name an owner."
    ),
    "M458": (
        "More bytes were sent of {digest} than the {size} that were declared; build the release "
        "again and publish that."
    ),
    "M459": (
        "The server does not understand the request ({reason}); update modpkg, or see schema of "
        "the API at /api/1/schema."
    ),
    "M465": "{path} is not a file of candidates: {reason}; ask the registry's owner to restore it.",
    "M466": "This cannot be said about a candidate: {reason}; say it in another way, or shorter.",
    "M467": "There is no candidate {label} in the registry {registry}{hint}.",
    "M468": "{label} {decision}; {remedy}.",
    "M469": (
        "{label} cannot be accepted: {name} {version} was published with different content "
        "meanwhile. Raise the version in {manifest}, run 'modpkg build' and 'modpkg submit', and "
        "reject {label}."
    ),
    "M470": (
        "{name} {version} is a release of {registry} already, and needs no review; for another one "
        "raise the version in {manifest}, and run 'modpkg build'."
    ),
    "M480": (
        "{name} {version} was removed from the registry {registry} ({reason}), and cannot be used "
        "any more; update to another version with 'modpkg update {name}', or take the module out."
    ),
    "M481": (
        "{name} {version} cannot be published to {registry}: {what} was removed ({reason}), and is "
        "never used again; {remedy}."
    ),
    "M482": "{name} {version} was removed from {registry}, which cannot be changed any more.",
    "M483": (
        "{id} in {url} was modified at {modified}, which is later than this one was; take over "
        "what was changed there, and set 'modified' to now."
    ),
    "M484": "Too many requests were sent from here; wait for {seconds} seconds and try again.",
    "M486": (
        "All that was to go is removed, but somebody has published a release to {url} meanwhile "
        "that needs {digest}, which is gone: 'modpkg registry verify {url}' tells which one, to be "
        "published again."
    ),
    "M473": (
        "This registry is published to at {before}, and clients there would be sent away if its "
        "server were at {url}; start it with --url {before}, or with --moved if it has moved."
    ),
    "M495": "There is no {what} here; check the address, or search for it.",
    "M471": (
        "{label} is not accepted without a reason: {facts}. Run 'modpkg accept {label} --anyway "
        "--reason WHY' to accept it nevertheless."
    ),
    "M472": (
        "{label} is not accepted: {name} has reviewers ({reviewers}); one of them who has not "
        "submitted it has to run 'modpkg approve {label}' first."
    ),
    "M501": "Cannot fetch {what} with --offline; run the same command once without it.",
    "M502": (
        "Not enough disk space at {path}: {needed} needed{reserve}, {free} free; nothing was "
        "changed. Free some, or {remedy}."
    ),
    "M503": "Nothing is installed in {path}; run '{command}'.",
    "M504": "{name!r} is not installed in {path}{hint}.",
    "M505": "{path} has no {which}{hint}.",
    "M506": "{path} is damaged ({reason}); {remedy}.",
    "M507": "{name!r} is not a dependency in {manifest}{hint}.",
    "M508": ("{what} was changed in {path} since it was fetched, and was not used; {remedy}."),
    "M509": (
        "Commands cannot take turns in {folder}: locks do not work on its file system ({reason}). "
        "Set MODPKG_HOME to a folder on a local disk, and keep projects and registries on one too."
    ),
    "M510": "{path} cannot be read or written ({reason}); {remedy}.",
    "M511": (
        "{path} is {what}, and modpkg takes only the file or folder itself there; remove it, or "
        "put the file or folder in its place."
    ),
    "M512": "{path} has more than {limit}, the most that is read of such a file; make it smaller.",
    "M513": (
        "{path} is a link that leads out of {folder}, and what it leads to would become part of "
        "the module; put the file in its place (cp -L), or remove it."
    ),
    "M514": (
        "{path} belongs to {owner}, who can change what is used from it; take it over (chown -R), "
        "or, if you trust its owner, list the folder in the variable {variable}."
    ),
    "M517": (
        "Your disk quota is used up at {path}; nothing was changed. Remove something of yours "
        "there, or set MODPKG_HOME to a folder on another disk."
    ),
    "M520": "The server at {url} cannot be used: {reason}; {remedy}.",
    "M521": (
        "To {what}, log in first: run 'modpkg login {url}' (or, in CI, set MODPKG_TOKEN and "
        "MODPKG_REGISTRY)."
    ),
    "M522": (
        "The registry at {url} says that releases are published at {api}, which is another server; "
        'if that is right, put api = "{api}" under [registry."{url}"] in {config}.'
    ),
    "M523": (
        "The token for {url} is not in the keyring any more, where {path} says that it is; run "
        "'modpkg login {url}'."
    ),
    "M526": (
        "The identity of this CI job was not shown to {url}: {reason}; let the job ask for one "
        "that is for this server, or give it a token by MODPKG_TOKEN."
    ),
    "M525": (
        "The registry at {url} is none that 'modpkg registry serve' serves, so nobody has an "
        "account there; give the address of one, or set MODPKG_REGISTRY to it."
    ),
    "M524": (
        "{path} has tokens in it, and other users of this machine can read or change it; run: "
        "chmod 600 {word}"
    ),
    "M535": (
        "{path} of {name} has {what} in it; remove it, and revoke it if it was ever shown. If it "
        "is made up, list the file under made-up-secrets of [files], and build again."
    ),
    "M540": (
        "{text!r} is no key: one looks like key:ed25519:… or key:ecdsa-p256:…, as "
        "'modpkg key list' shows them."
    ),
    "M541": "A signature counts for nothing: {reason}.",
    "M542": (
        "The registry {registry} had a log, as {where} says, and cannot be asked now for releases "
        "in it: {reason}; try again, or leave registries out: modpkg verify --offline"
    ),
    "M543": (
        "{name} {version} has to be signed by {wanted} ({where}), and is signed by {found}; "
        "{remedy}."
    ),
    "M544": (
        "{change}; ask who maintains it, and if it is right, run the command again with "
        "--accept-changed {name}."
    ),
    "M545": (
        "{name} {version} is signed by {found}, and only signed releases are allowed; ask who "
        "publishes it for 'modpkg publish --sign', or remove require-signed."
    ),
    "M546": "{path} has {most} signatures already, which is as many as a file can have.",
    "M547": "{what} cannot be used to sign: {reason}.",
    "M548": "{path} is there already, and a key is never replaced; choose another name.",
    "M549": "There is no key {path}; {remedy}, or name another ('modpkg key list').",
    "M550": "The log of {registry} has no valid checkpoint: {reason}; ask who runs the registry.",
    "M551": (
        "The registry {registry} had a log with the key {was}, as {where} says, and now {found}; "
        "ask who runs it, and if it is right, run: modpkg registry trust forget --log {word}"
    ),
    "M552": (
        "The log of {registry}, of size {now}, does not continue what {where} has of it, of size "
        "{before}; it shows different things to different people, or was replaced. Do not install "
        "from it, and send {path}, which has both checkpoints, to who runs it. Only if he replaced "
        "it, run: modpkg registry trust forget --log {word}"
    ),
    "M553": (
        "The log of {registry} is of size {now}, and of {before} as {where} has it: it is an old "
        "copy, or was replaced; try again later, or ask who runs it and send {path}, which has "
        "both checkpoints. Only if it was restored so, run: modpkg registry trust forget --log "
        "{word}"
    ),
    "M554": (
        "{name} {version} is not in the log of {registry}: {reason}; do not use it, and ask who "
        "runs the registry ('modpkg registry audit {registry}' tells more)."
    ),
    "M555": "The log of {registry} is damaged: {path}: {reason}; ask who runs it.",
    "M556": (
        "The log of {registry} has the key {known}, and cannot be written with {given}; name that "
        "key, or let another one take its place: start the server once with both, 'modpkg registry "
        "serve --log-key NEW --log-key-before OLD'."
    ),
    "M557": (
        "{url} has a log, and nothing is released there without its key: publish to its server, "
        "and start that with 'modpkg registry serve --log-key KEY'."
    ),
    "M558": (
        "The registry {registry} has no log; who runs it begins one with 'modpkg registry serve "
        "--log-key KEY'."
    ),
    "M559": "The log of {registry} has grown since its checkpoint was read; run it again.",
    "M560": (
        "{what} does not have the signatures that it needs: {count} of {threshold} hold. Somebody "
        "may have taken over the registry, or stand in between; ask who runs it."
    ),
    "M561": (
        "{what} expired at {expires}, and it is {now} by this machine's clock; if the clock is "
        "right, ask who runs the registry to sign it again."
    ),
    "M562": (
        "{what} has version {version}, and had {before} before: an old state of the registry is "
        "shown. Try again without a mirror, and if it stays so, ask who runs it."
    ),
    "M563": (
        "{what} does not belong to the rest of the registry's metadata: {reason}; try again, and "
        "if it stays so, ask who runs it."
    ),
    "M564": (
        "{path} of the registry {url} is not what its maintainers have signed: {reason}. Try again "
        "in a minute; if it stays so, whoever has its online key runs 'modpkg registry trust sign'."
    ),
    "M565": "{what} cannot be used: {reason}; ask who runs the registry.",
    "M566": (
        "The registry {url} was signed when it was read before, and is not any more: {reason}. Ask "
        "who runs it, and if it is right, run: modpkg registry trust forget {word}"
    ),
    "M567": (
        "The registry {url} has another root than {where} says, {found} in place of {root}; ask "
        "who runs it, and if it is right, run: modpkg registry trust forget {word}"
    ),
    "M568": "The registry {url} cannot be signed: {reason}.",
    "M569": (
        "{path} of the registry {url} is not what was signed, so nothing is signed that follows "
        "from it; look at it, and if it is right, run: modpkg registry trust sign {word}"
    ),
    "M570": (
        "{path} was installed from another lock than {lock} is now; run 'modpkg install' first."
    ),
    "M571": (
        "{change}; ask who maintains it, for whoever has its key now may have made it. To take "
        "another version, require {name}!={version}; if it is right, the command that locks it "
        "takes it with --accept-changed {name}, and 'modpkg verify' goes on naming it."
    ),
    "M572": "{old} cannot name {new} as its successor for {name}: {reason}.",
    "M574": (
        "The index of {name} says that a signer of it has named the one after it, and {registry} "
        "shows no such statement that holds; try again without a mirror, and if it stays so, ask "
        "who maintains {name} to run 'modpkg key succeed' again."
    ),
    "M575": (
        "{signer} has named {after} as its successor for {name}, and signs nothing more of it; "
        "sign with that one."
    ),
    "M576": (
        "{url} is where a registry is read, and not its storage; name the folder or object store "
        "(s3://, gs://, az://) that it is served from."
    ),
    "M577": (
        "What is said of whether {release} is yanked is numbered, and {signer} has used the last "
        "number, {most}: whatever is signed of it now would count for nobody; leave --sign out, "
        "and publish a newer release."
    ),
    "M578": (
        "{release} is signed by {found}, and {signer} has signed none of that module, so its yank "
        "would count for nobody; {remedy} leave --sign out."
    ),
    "M579": (
        "The index of {url} is not signed, so its readers believe what they find there; whoever "
        "runs it begins to sign it with 'modpkg registry trust init'."
    ),
    "M598": (
        "{what} was changed after {key} had signed it, or somebody else made that signature; ask "
        "who sent it for the file as it was signed last."
    ),
    "M573": (
        "{where} says that the registry {url} is signed, with the first root {root}, and {reason}; "
        "ask who runs it, and if that is right, correct 'root' under [registries] of {where}."
    ),
    "M590": (
        "{text!r} is no signer: one is a key, or like 'oidc:https://ISSUER repo=OWNER/NAME', with "
        "owner-id=, workflow=, ref= and subject= after it, in this order, as locks write it."
    ),
    "M591": (
        "{path} cannot be used to verify or make signatures of identities: {reason}; correct "
        "trust-config under [sigstore] of {config}."
    ),
    "M474": (
        "{name} {version} says that it was published {published}, and was logged {at}, after the "
        "cut-off {cutoff} ({why}); ask who runs {registry}. To take another version, require "
        "{name}!={version}; if it is right, exempt it with exclude-newer-package under "
        "[resolution]."
    ),
    "M475": "The reason {problem}, so that no reader would take it as it is; {remedy}.",
    "M595": (
        "{change}; nothing is made of it. Ask who maintains it, and name another release, or, if "
        "it is right, run the command again with --accept-changed {name}."
    ),
    "M592": (
        "The copy of {what} is older than what is known of its registry, or nobody has signed it; "
        "run the same command once without --offline."
    ),
    "M594": (
        "{what} would have {size} bytes, and one of more than {most} is never read; {name} "
        "{version} has the longest requirements in it, so exclude that version under [constraints]."
    ),
    "M596": (
        "{what} counts until {expires}, and it is {now} by this machine's clock; nothing is signed "
        "for so long, so the clock is behind: set it. If it is right, ask who runs the registry to "
        "sign it again."
    ),
    "M597": (
        "Nothing was signed in {url}: what is there counts until {expires}, and by this machine's "
        "clock it is {now}, so that one of them is far off. Set the clock; if it is right, run: "
        "modpkg registry trust sign --fresh --online-key KEY {word}"
    ),
    "M593": (
        "{path} would have more than {most}, and then nobody could read it, so it stays as it is; "
        "{remedy}."
    ),
    "M599": (
        "{path} would be longer than {most}, and then nobody could read it, so this signature was "
        "not added; what else is in it may have come from others: ask the registry's owner."
    ),
    "M601": "{model}: {reason}.",
    "M602": "{where}: unknown operator {op!r}; known are {known}.",
    "M603": (
        "{model}: {count} tensor(s) of {module} are not used by any step, such as {example!r}; "
        "every tensor of a module has to be used."
    ),
    "M604": (
        "{module}: {tensor!r} has shape {actual}, but {target!r} of {base} needs {expected}; "
        "the module was made for another base."
    ),
    "M605": (
        "{model}: composing {tensor!r} gives NaN or infinity; a module's weights are invalid, or a "
        "scale is too large."
    ),
    "M606": ("{module} cannot be composed exactly: {reason}. modpkg does not apply it in part."),
    "M607": (
        "{model}: the composed weights have digest {actual}, but modpkg.lock has {expected}; "
        "another machine or engine version rounded differently, or the lock file was changed. To "
        "accept the new result, remove the [[composed]] table of {model} from modpkg.lock, and run "
        "the command again."
    ),
    "M608": (
        "{module} has no {missing!r}: experts and routers need tensors for every layer of {base}; "
        "build it with all of them."
    ),
    "M609": "{model} cannot be composed as a mixture of experts: {reason}.",
    "M616": (
        "{model} cannot use the tokenizer of {module}: its token {token!r} has number {number}, "
        "and the embedding has {rows} rows. {module} was trained with more rows, which are not in "
        "its file: save it again with save_embedding_layers=True. To use it without those tokens, "
        'write tokenizer = "{base}" in the recipe.'
    ),
    "M617": (
        "{model}: {first} and {second} were trained with a different {what}, and a model has only "
        'one; name the module whose is used in the recipe, like tokenizer = "{second}".'
    ),
    "M620": "{where}: unknown method {method!r}; known are {known}.",
    "M621": "--executor {address}: {reason}.",
    "M700": "The virtual tokens of {name} {reason}.",
    "M701": "{name} (kind {kind!r}) is installed, but not as a model; {remedy}.",
    "M702": (
        "{name}: the installed transformers {version} has no architecture {architecture!r}; "
        "update transformers, or install the Python package that provides it."
    ),
    "M703": "{what} needs the Python package {package}; pip install 'modpkg[{extra}]'.",
    "M704": "{name} cannot be loaded: {reason}.",
    "M705": (
        "{name}: task {task!r} is not supported; known are {known}. modpkg.load({name!r}) gives "
        "the model itself."
    ),
    "M706": "{source} has no text; pass a file, or '-' to read standard input.",
    "M707": (
        "{name}: its {file} requires {what} ({key}), and modpkg runs no code that a model names "
        "and looks nothing up on a hub; {remedy}."
    ),
    "M708": "{name} cannot be loaded live: {reason}.",
    "M709": "{choice} cannot be used: {reason}.",
    "M710": "{what} is not a valid report: {reason}; 'modpkg test' writes a new one.",
    "M711": (
        "{path} is a report of another {what}: it has {reported}, but the build has {actual}; "
        "run 'modpkg test' again, or remove the file."
    ),
    "M712": "{where}: {reason}; a test reads its cases from it, so no test was run.",
    "M713": "{where}: unknown metric {metric!r}{hint}.",
    "M714": "Metric {metric!r} cannot be used: {reason}.",
    "M715": (
        "{test}: metric {metric!r} needs {needs}, which {name} is not; choose a metric that fits "
        "its task."
    ),
    "M716": ("{name} gives NaN or infinity in test {test!r} for {text}; its weights are broken."),
    "M717": (
        "Test {test!r} of {suite} did not finish on {name} within {limit:g} seconds and was "
        "stopped; reduce its cases, or raise --time-limit (or time_limit in [[tests]])."
    ),
    "M718": "Test {test!r} of {suite} crashed on {name} ({reason}).",
    "M719": "Nothing to test: {reason}.",
    "M720": (
        "[suites] names {name}, but {name} {version} is of kind {kind!r}; only modules of kind "
        "'suite' can be named there."
    ),
    "M721": "{what} cannot be vetted: {reason}.",
    "M722": (
        "{name} is quantised ({form}) by its config.json, and cannot be loaded here: {reason}. "
        "{remedy}"
    ),
    "M723": "{name} needs a Python package that is not installed: {reason}.",
    "M724": "{name} has no prompt named {prompt!r}; it has {known}.",
    "M725": (
        "{name} takes no prompt's name: its task is {task!r}, and only models that embed text have "
        "prompts; leave out --prompt-name."
    ),
    "M726": "{what} fails: {reason}.",
    "M727": (
        "{caller} is in the project {project}, but the working folder belongs to {other}; pass "
        "project={project!r}, or user=True for your user environment."
    ),
    "M728": (
        "The folder of {name} does not exist yet, and cannot be written to {path} ({reason}). Call "
        "modpkg.path once where it can, such as while an image is built; or write a folder "
        "elsewhere: modpkg export {name} FOLDER."
    ),
    "M730": ("{patch} is not a valid patch: {reason}; create it again with 'modpkg patch create'."),
    "M731": (
        "{patch} was made for {made_for}, and {tensor!r} of {base} differs from it; use that "
        "base, or merge the two: modpkg merge --base {made_for} {patch} OTHER."
    ),
    "M732": (
        "{patch} does not fit {base}, which has no tensor {tensor!r}; use the base that it was "
        "made for."
    ),
    "M733": (
        "{tensor!r} of {what} changed and has {count} non-finite values (NaN or infinity); fix the "
        "training that produced it."
    ),
    "M734": "{copy} is identical to {base}; there is nothing to create a patch from.",
    "M735": "{what} is not a copy of {base}: {reason}.",
    "M736": (
        "{patch} does not restore {tensor!r} from {base} (got {actual}, expected {expected}); "
        "please report this with both, and use the copy that the patch was created from."
    ),
    "M740": (
        "{conflicts}; choose --method mean (or ties, fisher, auto …) for tensors, or write a "
        "--resolution FILE with, for example, '[{table}]' and '\"{example}\" = \"ours\"' (ours, "
        "theirs, mean or base)."
    ),
    "M741": "{path}: {entry!r} {reason}.",
    "M742": "{what} cannot be merged: {reason}.",
    "M745": (
        "The tokenizer's chat template {reason}, and is stopped; write 'chat = false' in the task "
        "to leave it out."
    ),
    "M746": (
        "The installed transformers compiles chat templates in a way that modpkg does not know and "
        'cannot bound; install another version of it, or write "chat = false" in the task.'
    ),
    "M760": (
        "{where}: {name} {version} is not in the registry {registry}{hint}; [provenance] "
        "has to name published releases."
    ),
    "M761": (
        "{name} {version} would be a {level} change after {against}:{facts}\n"
        "Raise the version in modpkg.toml to {lowest} or higher, or publish with "
        '--allow-breaking "REASON", which is recorded.'
    ),
    "M770": (
        "{where}: {name} {version} is under {license}, and {reason} ({policy}); choose another "
        "module, or list the licence for it under [licenses] exceptions."
    ),
    "M790": (
        "{old} and {new} lock the same versions of the same modules, so there is nothing to "
        "search; name two locks that differ."
    ),
    "M791": (
        "{command!r} must pass with {end}, but it {how}, so no later change is to blame; "
        "{remedy}. Its output: {log}"
    ),
    "M792": (
        "{command!r} passes with {end}, so there is nothing to search; name a lock with which it "
        "fails, or add --repeat if it fails only sometimes."
    ),
    "M793": "{command!r} must be run with both ends, and could not be with {end}: {reason}",
    "M794": (
        "{command!r} {how} with {label}, which is not a verdict (0 is good, 125 skips, 1 to 127 "
        "are bad). Nothing was changed; run the same command again to continue. Its output: {log}"
    ),
    "M795": (
        "A lock has {name} {version} ({release}), but the registry {registry} does not; use the "
        "registry that it was locked from."
    ),
    "M796": (
        "{command!r} is flaky: with {end} it {how}, so a search could blame the wrong module. "
        "Make it deterministic, for example with a fixed seed. Its output: {log}"
    ),
    "M797": (
        "{path} was changed while the tests ran, so they did not test what would be installed; "
        "nothing was changed. Run the command again; the runs made so far are kept."
    ),
    "M801": "{path} cannot be imported: {reason}.",
    "M803": "{path} exists and is not empty; choose a new folder.",
    "M804": (
        "{what} cannot be compared: {reason}. Name a release (NAME==VERSION), an installed "
        "model (NAME or NAME@GENERATION) or a folder with *.safetensors."
    ),
    "M805": "{name} cannot be written as {form}: {reason}.",
    "M806": (
        "The registry {registry} cannot be searched: it has no modules.jsonl, and its files cannot "
        "be listed. Publishing to it with this version of modpkg, and copying modules.jsonl to the "
        "server with the rest, makes it searchable; 'modpkg info NAME' shows a module by its name."
    ),
    "M840": (
        "{name} is composed when it is first loaded, which has not been yet, and {path} cannot be "
        "written ({reason}). Run 'modpkg run {name} TEXT' once where it can, such as while an "
        'image is built; or give the dependency compose-at = "install" in the manifest, and run '
        "'modpkg install' there."
    ),
    "M841": (
        "The registry at {url} has {what} in the place of {path}, and only a file is read there; "
        "ask its owner to remove it and to restore the file."
    ),
    "M845": (
        "{address} cannot be the address of a registry: {reason}. Name a folder, or a URL such as "
        "https://models.example/acme."
    ),
    "M846": "Nothing could be published to {url}: {reason}; {remedy}{kept}.",
    "M847": (
        "The registry at {url} was changed by others {count} times while it was published to, each "
        "time before this change was written; publish again when fewer do."
    ),
    "M848": (
        "The store of {url} ignores {ignored}, so several publishers would overwrite each other's "
        "releases, and nothing can be published there. Use a store that heeds it (S3, GCS, Azure, "
        "R2, Ceph and MinIO do), or a folder."
    ),
    "M849": "The registry at {url} could not be read: {reason}; {remedy}.",
    "M850": (
        "{name} {version} is locked as the release {locked}…, and {address} gives the release "
        "{made}… here: {reason}. Use the one that made the lock{remedy}."
    ),
    "M886": (
        "{address} has other files than when {name} {version} was locked, and under the same "
        "commit, which never changes: {endpoint} or what is between has changed them. Nothing of "
        "it was installed; ask the owner why, or install from what 'modpkg vendor' copies where "
        "the locked ones are installed."
    ),
    "M851": "{name} is made of {address}, {reason}; {remedy}.",
    "M852": (
        "{name} is the model {address} of a hub, which has no versions to choose from: name its "
        "revision with 'modpkg add hf://ORG/NAME@REVISION --name {name}', or take it out with "
        "'modpkg remove {name}' before another module gets its name."
    ),
    "M855": (
        "{source} {text} would be a folder, which does not exist, and looks like {what}; write "
        "{right}, or ./{text} for a new folder."
    ),
    "M859": (
        "{path} was changed while the build read {what}; build again when no program writes to it "
        "any more."
    ),
    "M856": (
        "{device} cannot be used to compose: {reason}. Use cpu, or auto, which takes a GPU only "
        "where there is one; the bytes are the same."
    ),
    "M857": "{source} is {device!r}, which is no device; write auto, cpu, cuda or cuda:1.",
    "M858": (
        "{model} could not be composed on {device}: {reason}. Run the same command with "
        "MODPKG_DEVICE=cpu in the environment; the bytes are the same."
    ),
    "M860": ("{address} is not an address on a hub: {reason}; {remedy}."),
    "M861": ("{address} may not be read: {reason}; {remedy}."),
    "M862": ("There is no {address}: {reason}; {remedy}."),
    "M863": ("The hub at {url} cannot be used: {reason}."),
    "M864": (
        "{path} of {address} {found}, and the hub lists {listed}: it was damaged on its way or is "
        "not what was committed, and was removed. Run the command again; if it comes so again, "
        "tell the hub's owner."
    ),
    "M867": ("Nothing can be published to {address}: {reason}; {remedy}."),
    "M865": (
        "{name} cannot be loaded with attn_implementation={attention}: {reason}. Leave it out for "
        "transformers' choice, or take 'sdpa' or 'eager'."
    ),
    "M866": (
        "{name} needs {needed} of memory on {device}, which has {free} free. Free some there, load "
        "it with dtype='bfloat16' if it has a wider one, or spread it over several devices: "
        "from_pretrained(modpkg.path({name!r}), device_map='auto')."
    ),
    "M870": (
        "It cannot be known which modules the registry {registry} has: its files cannot be listed, "
        "and it has no modules.jsonl. Name the modules that are meant, or ask the registry's owner "
        "to run 'modpkg registry init' on the folder or bucket behind the address, which writes "
        "one."
    ),
    "M871": (
        "{path} of the registry at {url} cannot be mended: nothing that is known has it undamaged. "
        "Publish the release again from its dist/, or name a registry that has it under "
        "[registries] in config.toml."
    ),
    "M872": (
        "{count} of the modules of {source} could not be copied as a whole, and what else there is "
        "was copied:\n{facts}\nWhen that is settled, the same command goes on with what is missing."
    ),
    "M873": "Nothing is removed from the registry at {url}: {reason}; {remedy}.",
    "M880": (
        "{model}: a process that composed a part of it did not finish ({reason}); if memory ran "
        "out, free some, or compose with fewer at once ('modpkg compose --threads 2'), and run the "
        "command again."
    ),
    "M890": (
        "{name!r} cannot be removed while {users} of {manifest} uses it; take it out there first, "
        "then run the same command again."
    ),
    "M891": (
        "{address} is not an address of an OCI registry: {reason}; write it like "
        "oci://HOST/REPOSITORY:TAG."
    ),
    "M892": "The OCI registry {host} cannot be used: {reason}; {remedy}.",
    "M893": (
        "{what} of {address} {found}, and has to be {wanted}: it was damaged or is not what was "
        "exported, and nothing of it was kept. Run the command again; if it comes so again, tell "
        "the registry's owner."
    ),
    "M895": (
        "{what} needs torch, which is not installed here (a light install leaves it out): run "
        "pip install torch, or do this on a machine that has it."
    ),
    "M896": (
        "The address of {url} has a signature or a token in it, and modpkg.toml, which others "
        "read, would keep it; name it by MODPKG_REGISTRY, or write it into {config}, like: "
        '[registries] and below it default = "ADDRESS"; then run the command without --registry. '
        "If others may have the address, write it under [registries] in modpkg.toml yourself."
    ),
    "M897": (
        "The registry at {url} sends your credentials back in {path}, where others could come to "
        "read them; nothing of it was kept. Tell its owner, and replace the credentials in "
        "{config}."
    ),
    "M901": "{message}",
    "M902": (
        "The shell took '>' for a redirect into the file {file!r}, and it is ambiguous which of "
        "{names} it belongs to; quote the requirement: modpkg {command} '{example}'."
    ),
}
