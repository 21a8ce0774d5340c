# pg_rehome: PGXS build.  Needs PostgreSQL 15 or later with server headers.

EXTENSION = pg_rehome
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" pg_rehome.control)
MODULE_big = pg_rehome

OBJS = \
	src/pg_rehome.o src/guc.o \
	src/util/attempt.o src/util/call.o src/util/debug_point.o src/util/name.o src/util/position.o src/util/problems.o src/util/result.o src/util/row_json.o src/util/sink.o src/util/spi.o src/util/stated.o src/util/wait.o \
	src/catalog/define.o src/catalog/define_rule.o src/catalog/define_table.o src/catalog/definition.o src/catalog/identity.o src/catalog/legal.o src/catalog/lookup.o src/catalog/migration.o src/catalog/redaction.o src/catalog/slices.o src/catalog/source.o src/catalog/state.o \
	src/remote/connect.o src/remote/connection.o src/remote/copy_stream.o src/remote/query.o src/remote/throttle.o src/remote/xact.o \
	src/mapping/compile.o src/mapping/project.o src/mapping/rule.o src/mapping/rule_json.o src/mapping/rule_measure.o src/mapping/rule_param.o src/mapping/rule_text.o src/mapping/rule_value.o \
	src/capture/drift.o src/capture/refused.o src/capture/source.o src/capture/structure.o src/capture/table_pause.o src/capture/target.o src/capture/target_lock.o src/capture/target_parts.o src/capture/trigger.o \
	src/document/derived_document.o src/document/import.o src/document/lineage.o src/document/lint.o src/document/lint_sample.o src/document/mapping_document.o src/document/similar.o src/document/suggest.o \
	src/copy/chunk.o src/copy/copy.o src/copy/known.o src/copy/load.o src/copy/reader.o src/copy/saved_object.o src/copy/sieve.o src/copy/stream.o src/copy/worker.o \
	src/apply/apply.o src/apply/deferred.o src/apply/direct.o src/apply/forward.o src/apply/inverse.o src/apply/merge.o src/apply/repartition.o src/apply/resume.o src/apply/retry.o src/apply/reverse.o src/apply/reverse_position.o src/apply/taken.o src/apply/touched.o src/apply/turn.o \
	src/derive/compare_derived.o src/derive/define_derived.o src/derive/derive.o src/derive/identity.o src/derive/install.o src/derive/landing.o \
	src/verify/compare.o src/verify/discrepancy.o src/verify/hash.o src/verify/pace.o src/verify/row_hash.o src/verify/scope.o src/verify/verify.o \
	src/trust/check.o src/trust/criterion.o src/trust/discrepancy.o src/trust/gate.o src/trust/query.o src/trust/redact.o src/trust/schedule.o src/trust/sides.o src/trust/structure.o src/trust/suggest.o src/trust/trust.o \
	src/cutover/cutover.o src/cutover/finish.o src/cutover/freeze.o src/cutover/recover.o src/cutover/rollback.o src/cutover/sequence.o \
	src/monitor/plan.o src/monitor/preflight.o src/monitor/preflight_keys.o src/monitor/preflight_switch.o src/monitor/round_trip.o \
	src/worker/handlers.o src/worker/launcher.o src/worker/sync.o src/worker/worker.o \
	src/move.o src/owner.o

# The install script: one file a topic, in this order.
SQL_PARTS = $(addprefix src/extension/, \
	00_schema.sql 10_define.sql 12_rules.sql 14_document.sql 16_derive.sql 20_move.sql 30_views.sql 42_drift.sql 44_trust.sql 45_check.sql 46_criterion.sql 47_suggest.sql 48_structure.sql 49_redact.sql 90_grants.sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql

# SQL that C sends somewhere: compiled in as string constants.
REMOTE_SQL = $(wildcard src/*/sql/*.sql)
REMOTE_SQL_H = $(REMOTE_SQL:.sql=.sql.h)

EXTRA_CLEAN = $(EXTENSION)--$(EXTVERSION).sql $(REMOTE_SQL_H) tmp_check tmp_check_iso output_iso results

REGRESS = define document guc lineage lint suggest views state oneoff source rules trust checks structure redact derive derive_notes
REGRESS_OPTS = --temp-instance=tmp_check --temp-config=test/regress.conf
ISOLATION = define_start guard_writers late_commit late_commit_back lock_timeout old_snapshot pause_batch same_target
ISOLATION_OPTS = --temp-instance=tmp_check_iso --temp-config=test/regress.conf --inputdir=test/isolation

PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
SHLIB_LINK_INTERNAL = $(libpq)

# One shared object: bitcode for inlining would double the build for nothing.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS) pg_rehome.control
	cat $(SQL_PARTS) > $@

%.sql.h: %.sql scripts/sql2c
	sh scripts/sql2c $< > $@

$(OBJS): $(wildcard src/*.h src/*/*.h) $(REMOTE_SQL_H)
