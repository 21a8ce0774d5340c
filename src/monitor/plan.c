/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  rehome.plan(): what would be done, done by nobody yet.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/apply.h"
#include "apply/inverse.h"
#include "copy/copy.h"
#include "derive/derive.h"
#include "funcapi.h"
#include "monitor/preflight.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

typedef struct RehomePlan
{
	ReturnSetInfo *rsinfo;
	int			seq;
} RehomePlan;

static void
step(RehomePlan *plan, const char *object, const char *action, const char *sql, const char *risk)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int32GetDatum(++plan->seq);
	values[1] = CStringGetTextDatum(object);
	values[2] = CStringGetTextDatum(action);
	nulls[3] = sql == NULL;
	values[3] = sql ? CStringGetTextDatum(sql) : (Datum) 0;
	values[4] = CStringGetTextDatum(risk);
	tuplestore_putvalues(plan->rsinfo->setResult, plan->rsinfo->setDesc, values, nulls);
}

/*
 * copy_sql shows how a target's rows are computed.
 */
static char *
copy_sql(RehomeTableMap *map)
{
	StringInfoData sql;
	StringInfoData expressions;
	ListCell   *lc;

	initStringInfo(&sql);
	initStringInfo(&expressions);
	appendStringInfo(&sql, "INSERT INTO %s (", rehome_relation_name(map->target));
	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);

		if (column->kind == REHOME_SKIP)
			continue;
		appendStringInfo(&sql, "%s%s", expressions.len ? ", " : "", quote_identifier(column->name));
		appendStringInfo(&expressions, "%s%s", expressions.len ? ", " : "", column->expression);
	}
	appendStringInfo(&sql, ") SELECT %s FROM %s AS source", expressions.data,
					 rehome_relation_name(map->source));
	if (map->filter != NULL)
		appendStringInfo(&sql, " WHERE %s", map->filter);
	return sql.data;
}

static void
plan_live(RehomePlan *plan, RehomeSlice *slice, List *maps)
{
	ListCell   *lc;

	step(plan, "source", "create schema rehome_source: change tables, staging tables, functions", NULL,
		 "none: new objects, owned by the connecting role");
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		RehomeRemoteTable *table = rehome_remote_table(map->source);

		step(plan, rehome_remote_relation(table), "create capture and fence triggers at the source",
			 psprintf("SELECT rehome_source.create_capture('%s', %d, %d, %s, %s, true);", slice->migration->token,
					  slice->id, map->id, quote_literal_cstr(rehome_remote_relation(table)),
					  quote_literal_cstr(rehome_remote_key_array(map, table))),
			 "SHARE ROW EXCLUSIVE for the time of CREATE TRIGGER, waited for no longer than rehome.lock_timeout; from then on each write also logs its key");
	}
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char	   *target = rehome_relation_name(map->target);
		RehomeRows *rows;

		step(plan, target, "create guard and capture triggers",
			 psprintf("CREATE TRIGGER rehome_guard BEFORE INSERT OR UPDATE OR DELETE ON %s ...", target),
			 "nobody else can write to the target until cutover");
		rows = rehome_spi("SELECT c.conname, 'ALTER TABLE ' || c.conrelid::regclass || ' DROP CONSTRAINT ' || quote_ident(c.conname)"
						  " FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid"
						  " WHERE c.conrelid = $1 AND c.contype IN ('p', 'u', 'x', 'f') AND c.conparentid = 0"
						  " AND r.relkind = 'r' AND NOT r.relispartition"
						  " UNION ALL SELECT i.indexrelid::regclass::text, 'DROP INDEX ' || i.indexrelid::regclass"
						  " FROM pg_index i JOIN pg_class r ON r.oid = i.indrelid WHERE i.indrelid = $1 AND r.relkind = 'r' AND NOT r.relispartition"
						  " AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))"
						  " ORDER BY 1", "o", map->target);
		for (int i = 0; i < rows->n; i++)
			step(plan, target, psprintf("take off %s for the load, unless something depends on it", rows->value[i][0]),
				 rows->value[i][1], "its definition is stored first; rebuilt after the load");
	}
}

/*
 * plan_switch is what comes once the rows are there.
 */
static void
plan_switch(RehomePlan *plan, RehomeSlice *slice, const char *object)
{
	char	   *arguments = psprintf("%s, %s", quote_literal_cstr(slice->migration->name), quote_literal_cstr(slice->name));

	step(plan, object, "sync: batch after batch, each exact at a source snapshot", psprintf("CALL rehome.sync(%s);", arguments),
		 "one short read-only transaction at the source a batch");
	step(plan, object, "cutover", psprintf("CALL rehome.cutover(%s);", arguments),
		 "writers wait, no longer than rehome.freeze_timeout; then the source refuses writes with SQLSTATE 25006");
}

/*
 * plan_reverse names the columns that cannot be carried back after cutover.
 */
static void
plan_reverse(RehomePlan *plan, RehomeSlice *slice, RehomeTableMap *map)
{
	RehomeInverse *inverse;
	ListCell   *lc;

	foreach(lc, rehome_reverse_losses(map))
	{
		RehomeFinding *loss = lfirst(lc);

		step(plan, loss->object, "after cutover: cannot be carried back in full", NULL, loss->detail);
	}
	if (!rehome_preflight_fits(map, slice->migration->owner))
		return;
	inverse = rehome_inverse_compile(map, slice->migration->owner);
	for (int i = 0; i < inverse->ncolumns; i++)
		if (!inverse->columns[i].carried)
			step(plan, psprintf("%s.%s", rehome_remote_relation(inverse->table), quote_identifier(inverse->columns[i].remote)),
				 "after cutover: is not carried back", NULL,
				 inverse->columns[i].key > 0 ? "is part of the key: no change of the table can be carried back" :
				 "changed rows keep their value, new rows get the default");
}

PG_FUNCTION_INFO_V1(rehome_plan);

/*
 * rehome_plan(migration name)
 */
Datum
rehome_plan(PG_FUNCTION_ARGS)
{
	RehomePlan		plan = {(ReturnSetInfo *) fcinfo->resultinfo, 0};
	RehomeCall	call;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	rehome_call_begin(&call, fcinfo);
	foreach(lc, rehome_slices_get(rehome_migration_argument(fcinfo), NULL))
	{
		RehomeSlice *slice = lfirst(lc);
		List	   *maps;
		char	   *object = psprintf("slice %s", slice->name);
		bool		copied = slice->state != REHOME_PLANNED && slice->state != REHOME_COPYING;
		ListCell   *lc2;

		if (rehome_slice_ended(slice) || rehome_slice_unused(slice))
			continue;
		maps = rehome_table_maps_require(slice);
		if (slice->migration->live && !copied)
			plan_live(&plan, slice, maps);
		foreach(lc2, copied ? NIL : maps)
			step(&plan, rehome_relation_name(((RehomeTableMap *) lfirst(lc2))->target), "copy",
				 copy_sql(lfirst(lc2)), slice->migration->live ?
				 "the source holds a snapshot and ACCESS SHARE until the copy is done: no DDL there, and vacuum keeps old rows" :
				 "one transaction");
		foreach(lc2, rehome_derivations_get(slice))
		{
			RehomeDerivation *derivation = lfirst(lc2);

			if (copied && (derivation->by_key || slice->state != REHOME_SYNCING))
				continue;
			step(&plan, rehome_relation_name(derivation->target),
				 psprintf("derive \"%s\"%s", derivation->name,
						  derivation->by_key ? ", and what changes of it with each batch" : ", and again at the cutover"),
				 derivation->query, derivation->by_key || !slice->migration->live ? "none: nothing is read from the source" :
				 "if its inputs change while the cutover drains, it is derived while writers wait");
		}
		if (!slice->migration->live)
			continue;
		if (!copied)
			step(&plan, object, "rebuild indexes and constraints, foreign keys last", NULL,
				 "a constraint the source's rows violate stops here, with the rows named");
		if (!copied || slice->state == REHOME_SYNCING)
			plan_switch(&plan, slice, object);
		foreach(lc2, maps)
			plan_reverse(&plan, slice, lfirst(lc2));
	}
	rehome_call_end(&call);
	return (Datum) 0;
}
