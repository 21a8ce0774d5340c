/*-------------------------------------------------------------------------
 *
 * install.c
 *	  What derivations put on tables: notes on their inputs, a guard and the
 *	  way back on their targets.
 *
 * rehome.note_input() stands on each input, once for each derivation, as a
 * statement trigger with transition tables: a batch applies a table's changes
 * in a few statements, so it costs a query a statement, not a row.  It asks
 * the derivation's own query which keys the old and the new rows touch, as the
 * migration's owner, and notes them as text.  It sees the tables as they are
 * after the statement.  The writes of the derivation itself are not noted.
 * When that query fails, everything is noted: deriving it will tell what is
 * wrong, and no batch is stopped, nor anybody else who writes to an input.
 *
 * Two who write at the same time do not see each other: the query of neither
 * finds a key that only both together touch, a row of a join of which either
 * brings one side.  Nobody is to wait for the other.  So whoever is no batch
 * of the derivation's slice leaves a mark, with what his query saw, unless that
 * reads nothing but the changed row.  When the slice writes to an input next,
 * or derives, it looks whether the marks that are there by then saw its last
 * transaction that did so, and each other; if not, everything is noted.
 *
 * While the source has authority, a table whose rows are derived is guarded as
 * one that is moved.  The cutover takes the guard off, stops the notes, and
 * turns on rehome.write_back() where a function was given: a write to a
 * derived row is then carried to the tables it came from, whose capture brings
 * it to the source.  The rollback does the opposite, and has everything
 * derived anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "apply/apply.h"
#include "capture/capture.h"
#include "commands/trigger.h"
#include "derive/derive.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* The derivation whose target is being written, or 0. */
int			rehome_deriving = 0;

/* The derivations whose functions that carry a write back are running. */
typedef struct WritingBack
{
	int			derivation;
	struct WritingBack *outer;
} WritingBack;

static WritingBack *writing_back = NULL;

/* The triggers on an input. */
static const struct
{
	const char *suffix;
	const char *event;
	const char *tables;
}			notes[] =
{
	{"insert", "AFTER INSERT", " REFERENCING NEW TABLE AS rehome_new"},
	{"update", "AFTER UPDATE", " REFERENCING OLD TABLE AS rehome_old NEW TABLE AS rehome_new"},
	{"delete", "AFTER DELETE", " REFERENCING OLD TABLE AS rehome_old"},
	{"truncate", "AFTER TRUNCATE", ""},
};

/*
 * pseudo_map returns a map of a table that is not moved, for what is put on
 * moved tables and these alike.
 */
static RehomeTableMap *
pseudo_map(Oid relid)
{
	RehomeTableMap *map = palloc0(sizeof(RehomeTableMap));

	map->target = relid;
	map->drift_policy = REHOME_DRIFT_REJECT;
	return map;
}

/*
 * rehome_derivation_maps returns maps of the tables that a derivation has
 * something on, for locking them.
 */
List *
rehome_derivation_maps(RehomeDerivation *derivation)
{
	List	   *maps = NIL;
	ListCell   *lc;

	foreach(lc, derivation->inputs)
		maps = lappend(maps, pseudo_map(lfirst_oid(lc)));
	if (derivation->whole || derivation->write_back != NULL)
		maps = lappend(maps, pseudo_map(derivation->target));
	return maps;
}

/*
 * rehome_derived_targets returns maps of the tables whose rows are derived.
 */
List *
rehome_derived_targets(RehomeSlice *slice)
{
	List	   *maps = NIL;
	ListCell   *lc;

	foreach(lc, rehome_derivations_get(slice))
		if (((RehomeDerivation *) lfirst(lc))->whole)
			maps = lappend(maps, pseudo_map(((RehomeDerivation *) lfirst(lc))->target));
	return maps;
}

/*
 * rehome_derived_maps returns maps of all tables that the derivations of a
 * slice have something on.
 */
List *
rehome_derived_maps(RehomeSlice *slice)
{
	List	   *maps = NIL;
	ListCell   *lc;

	foreach(lc, rehome_derivations_get(slice))
		maps = list_concat(maps, rehome_derivation_maps(lfirst(lc)));
	return maps;
}

static char *
note_trigger(RehomeDerivation *derivation, int i)
{
	return psprintf("rehome_derive_%d_%s", derivation->id, notes[i].suffix);
}

static char *
write_back_trigger(RehomeDerivation *derivation)
{
	return psprintf("rehome_write_back_%d", derivation->id);
}

/*
 * rehome_derivation_install creates a derivation's triggers.  Its tables are
 * locked with SHARE ROW EXCLUSIVE.
 */
void
rehome_derivation_install(RehomeSlice *slice, RehomeDerivation *derivation)
{
	ListCell   *lc;

	foreach(lc, derivation->inputs)
	{
		char	   *relation = rehome_relation_name(lfirst_oid(lc));

		for (int i = 0; i < lengthof(notes); i++)
		{
			char	   *name = note_trigger(derivation, i);

			rehome_spi(psprintf("CREATE TRIGGER %s %s ON %s%s FOR EACH STATEMENT EXECUTE FUNCTION rehome.note_input(%d)",
								name, notes[i].event, relation, notes[i].tables, derivation->id), "");
			rehome_spi(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", relation, name), "");
		}
	}
	if (derivation->whole && slice->migration->live && slice->state == REHOME_SYNCING)
		rehome_target_guard(slice, list_make1(pseudo_map(derivation->target)));
	if (derivation->write_back != NULL)
	{
		char	   *relation = rehome_relation_name(derivation->target);
		char	   *name = write_back_trigger(derivation);

		rehome_spi(psprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION rehome.write_back(%d)",
							name, relation, derivation->id), "");
		rehome_spi(psprintf("ALTER TABLE %s DISABLE TRIGGER %s", relation, name), "");
	}
}

/*
 * drop_trigger drops one, if table and trigger are there.
 */
static void
drop_trigger(Oid relid, const char *name)
{
	if (get_rel_name(relid) != NULL && OidIsValid(get_trigger_oid(relid, name, true)))
		rehome_spi(psprintf("DROP TRIGGER %s ON %s", name, rehome_relation_name(relid)), "");
}

/*
 * rehome_derivation_remove drops them.  The tables are locked with ACCESS
 * EXCLUSIVE.
 */
void
rehome_derivation_remove(RehomeDerivation *derivation)
{
	ListCell   *lc;

	foreach(lc, derivation->inputs)
		for (int i = 0; i < lengthof(notes); i++)
			drop_trigger(lfirst_oid(lc), note_trigger(derivation, i));
	drop_trigger(derivation->target, write_back_trigger(derivation));
	if (derivation->whole)
		rehome_target_remove(list_make1(pseudo_map(derivation->target)));
}

/*
 * rehome_derived_switch turns on the guard and the notes, or the way back.
 * All tables are locked with SHARE ROW EXCLUSIVE.
 */
void
rehome_derived_switch(RehomeSlice *slice, bool guard, bool write_back)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, rehome_derivations_get(slice))
	{
		RehomeDerivation *derivation = lfirst(lc);

		foreach(lc2, derivation->inputs)
		{
			StringInfoData sql;

			if (get_rel_name(lfirst_oid(lc2)) == NULL)
				continue;		/* dropped, with its triggers */
			initStringInfo(&sql);
			appendStringInfo(&sql, "ALTER TABLE %s ", rehome_relation_name(lfirst_oid(lc2)));
			for (int i = 0; i < lengthof(notes); i++)
				appendStringInfo(&sql, "%s%s TRIGGER %s", i > 0 ? ", " : "",
								 guard ? "ENABLE ALWAYS" : "DISABLE", note_trigger(derivation, i));
			rehome_spi(sql.data, "");
		}
		if (get_rel_name(derivation->target) == NULL)
			continue;
		if (derivation->whole)
			rehome_target_guard_switch(pseudo_map(derivation->target), guard);
		if (derivation->write_back != NULL)
			rehome_spi(psprintf("ALTER TABLE %s %s TRIGGER %s", rehome_relation_name(derivation->target),
								write_back ? "ENABLE ALWAYS" : "DISABLE", write_back_trigger(derivation)), "");
	}
}

/*
 * rehome_derived_remove drops the triggers of all derivations of a slice,
 * whose tables are locked with ACCESS EXCLUSIVE.
 */
void
rehome_derived_remove(RehomeSlice *slice)
{
	ListCell   *lc;

	foreach(lc, rehome_derivations_get(slice))
		rehome_derivation_remove(lfirst(lc));
}

/*
 * touches_rows tells whether a statement has changed any: one that has not
 * touches no key, and not everything either.
 */
static bool
touches_rows(TriggerData *trigger)
{
	return TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event) ||
		(trigger->tg_oldtable != NULL && tuplestore_tuple_count(trigger->tg_oldtable) > 0) ||
		(trigger->tg_newtable != NULL && tuplestore_tuple_count(trigger->tg_newtable) > 0);
}

/*
 * note_everything notes that all keys of a derivation are touched.
 */
static void
note_everything(int derivation)
{
	rehome_spi("INSERT INTO rehome.derivation_pending (derivation_id) VALUES ($1)", "i", derivation);
}

/*
 * relies_on_note tells whether there is a note that everything is to be derived,
 * and holds it: until this transaction has ended nobody takes it away.  One that
 * is there in an old snapshot only would be an error.
 */
static bool
relies_on_note(int derivation)
{
	return !IsolationUsesXactSnapshot() &&
		rehome_spi("SELECT FROM rehome.derivation_pending WHERE derivation_id = $1 AND key IS NULL LIMIT 1 FOR KEY SHARE SKIP LOCKED",
				   "i", derivation)->n > 0;
}

/* So many marks are not compared with each other. */
#define MARKS "1000"

/*
 * rehome_notes_missed takes away the marks of those who have changed inputs of a
 * derivation, and tells whether one of them and somebody else may have missed
 * each other.  A mark that is left by somebody who commits only now did not see
 * this transaction, which is found the next time.
 */
bool
rehome_notes_missed(int derivation)
{
	return rehome_bool(rehome_spi_value("WITH mark AS (DELETE FROM rehome.derivation_pending WHERE derivation_id = $1 AND writer IS NOT NULL RETURNING writer, seen)"
										" SELECT EXISTS (SELECT FROM mark m JOIN rehome.derivation d ON d.id = $1 WHERE NOT pg_visible_in_snapshot(d.written, m.seen))"
										" OR CASE WHEN (SELECT count(*) FROM mark) > " MARKS " THEN true ELSE EXISTS (SELECT FROM mark a JOIN mark b ON a.writer < b.writer"
										"  AND NOT pg_visible_in_snapshot(a.writer, b.seen) AND NOT pg_visible_in_snapshot(b.writer, a.seen)) END",
										"i", derivation));
}

/*
 * own_begins is told of the first write of the slice's own in this transaction
 * to an input of a derivation.
 */
static void
own_begins(int derivation)
{
	if (rehome_notes_missed(derivation))
		note_everything(derivation);
	rehome_spi("UPDATE rehome.derivation SET written = pg_current_xact_id() WHERE id = $1", "i", derivation);
}

/* A change of an input, to be noted for a derivation. */
typedef struct Noting
{
	TriggerData *trigger;
	bool		own;			/* by the derivation's slice */
	int			derivation;
	RehomeStated stated;
	const char *affected;
	Oid			target;
	List	   *key;
} Noting;

/*
 * note_keys notes the keys that changed rows of an input touch: those in the
 * transition tables of the trigger.
 */
static void
note_keys(void *arg)
{
	Noting	   *noting = arg;
	TriggerData *trigger = noting->trigger;
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	StringInfoData sql;
	StringInfoData names;
	char	   *seen;
	int64		n;
	ListCell   *lc;

	initStringInfo(&sql);
	initStringInfo(&names);
	appendStringInfoString(&sql, "SELECT DISTINCT ARRAY[");
	foreach(lc, noting->key)
	{
		AttrNumber	attnum = get_attnum(noting->target, lfirst(lc));
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(noting->target, attnum, &type, &typmod, &collation);
		appendStringInfo(&sql, "%sa.key%d::%s::text", foreach_current_index(lc) > 0 ? ", " : "",
						 foreach_current_index(lc) + 1, rehome_derivation_type(type, typmod));
		appendStringInfo(&names, "%skey%d", foreach_current_index(lc) > 0 ? ", " : "", foreach_current_index(lc) + 1);
	}
	appendStringInfo(&sql, "] FROM (%s%s%s) AS t CROSS JOIN LATERAL (%s\n) AS a(%s) WHERE (%s) IS NOT NULL",
					 trigger->tg_trigger->tgoldtable ? "SELECT * FROM rehome_old" : "",
					 trigger->tg_trigger->tgoldtable && trigger->tg_trigger->tgnewtable ? " UNION ALL " : "",
					 trigger->tg_trigger->tgnewtable ? "SELECT * FROM rehome_new" : "",
					 noting->affected, names.data, list_length(noting->key) > 1 ? psprintf("ROW(%s)", names.data) : names.data);
	TupleDescInitEntry(desc, 1, "key", TEXTARRAYOID, -1, 0);
	if (SPI_register_trigger_data(trigger) < 0)
		elog(ERROR, "could not register transition tables");
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	seen = rehome_spi_read("SELECT pg_current_snapshot()", "")->value[0][0];
	n = rehome_store_query(&noting->stated, sql.data, NULL, store);
	PopActiveSnapshot();
	if (n > 0)
	{
		rehome_rows_register("rehome_noted", desc, store, n);
		rehome_spi("INSERT INTO rehome.derivation_pending (derivation_id, key) SELECT $1, key FROM rehome_noted",
				   "i", noting->derivation);
		rehome_rows_unregister("rehome_noted");
	}
	if (!noting->own && rehome_affected_reads(&noting->stated, RelationGetRelid(trigger->tg_relation), noting->affected))
		rehome_spi("INSERT INTO rehome.derivation_pending (derivation_id, key, writer, seen) VALUES ($1, '{}', pg_current_xact_id(), $2::pg_snapshot)",
				   "it", noting->derivation, seen);
	tuplestore_end(store);
}

/*
 * note notes the keys that a change touches.  If the query for them fails,
 * that does not stop who changes the input, be it a batch or the application:
 * everything is to be derived then, and may fail on its own.
 */
static void
note(Noting *noting, const char *name)
{
	ErrorData  *error = rehome_attempt(note_keys, noting);

	if (error == NULL)
		return;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
			ReThrowError(error);	/* of no query in particular */
		default:
			break;
	}
	(void) SPI_unregister_relation("rehome_noted");
	ereport(WARNING,
			errcode(error->sqlerrcode),
			errmsg("could not tell which keys of \"%s\" a change of \"%s\" affects: %s", name,
				   RelationGetRelationName(noting->trigger->tg_relation), error->message),
			error->detail ? errdetail_internal("%s", error->detail) : 0,
			errhint("All of it will be derived anew."));
	note_everything(noting->derivation);
}

/*
 * is_newer tells whether a derivation that the transaction's snapshot has not is
 * there all the same.
 */
static bool
is_newer(int derivation)
{
	bool		newer;

	PushActiveSnapshot(GetLatestSnapshot());
	newer = rehome_spi_read("SELECT FROM rehome.derivation WHERE id = $1", "i", derivation)->n > 0;
	PopActiveSnapshot();
	return newer;
}

PG_FUNCTION_INFO_V1(rehome_note_input);

/*
 * rehome_note_input() RETURNS trigger; argument: the derivation's id.
 */
Datum
rehome_note_input(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	MemoryContext context;
	MemoryContext old;
	RehomeCall	call;
	RehomeRows *rows;
	int			derivation;
	bool		own;
	bool		copying;
	bool		noted;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs != 1 ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) || TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("rehome.note_input() must be called as an AFTER STATEMENT trigger"));
	derivation = pg_strtoint32(trigger->tg_trigger->tgargs[0]);
	if (derivation == rehome_deriving || !touches_rows(trigger))
		return PointerGetDatum(NULL);

	context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome notes", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	rehome_call_begin(&call, fcinfo);
	rows = rehome_spi_read("SELECT i.affected, d.search_path, m.owner::oid, d.target::oid, d.key, s.state = 'copying',"
						   " EXISTS (SELECT FROM rehome.derivation_pending p WHERE p.derivation_id = d.id AND p.key IS NULL),"
						   " CASE WHEN $3 = 0 THEN EXISTS (SELECT FROM rehome.table_map t WHERE t.target = i.input AND t.slice_id = d.slice_id)"
						   "  ELSE EXISTS (SELECT FROM rehome.derivation w WHERE w.id = $3 AND w.slice_id = d.slice_id) END, d.name,"
						   " d.written IS NOT DISTINCT FROM pg_current_xact_id(),"
						   " s.state = 'planned' OR EXISTS (SELECT FROM rehome.derivation_input n WHERE n.derivation_id = d.id AND n.affected IS NULL)"
						   " FROM rehome.derivation d JOIN rehome.migration m ON m.id = d.migration_id"
						   " JOIN rehome.slice s ON s.id = d.slice_id"
						   " JOIN rehome.derivation_input i ON i.derivation_id = d.id AND i.input = $2::oid"
						   " WHERE d.id = $1", "ioi", derivation, RelationGetRelid(trigger->tg_relation), rehome_deriving);
	if (rows->n == 0 && is_newer(derivation))
		ereport(ERROR,
				errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				errmsg("could not serialize access due to a derivation from \"%s\" that was defined meanwhile",
					   RelationGetRelationName(trigger->tg_relation)),
				errhint("The transaction might succeed if retried."));
	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("derivation %d of \"%s\" does not exist", derivation,
					   RelationGetRelationName(trigger->tg_relation)),
				errhint("ALTER TABLE ... DISABLE TRIGGER %s; when the migration is over.", trigger->tg_trigger->tgname));

	/*
	 * The writes of the derivation's own slice need no note where everything
	 * is noted already, or will be derived when the copy ends.  They are made
	 * by whoever derives.  Somebody else, another slice's batch included,
	 * could see a note that is just being taken away, and what he writes may
	 * not be seen by a query that is running.  Where no batch derives, such a
	 * note stays for weeks: there he holds it, and leaves none of his own.
	 */
	own = rehome_own_writes(trigger->tg_relation) && rehome_bool(rows->value[0][7]);
	copying = rehome_deriving == 0 && rehome_bool(rows->value[0][5]);
	noted = own && (copying || rehome_bool(rows->value[0][6]));
	if (own && !copying && !rehome_bool(rows->value[0][9]))
		own_begins(derivation);
	if (!own && rehome_bool(rows->value[0][10]))
		noted = relies_on_note(derivation);
	if (!noted && (rows->value[0][0] == NULL || TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event)))
		note_everything(derivation);
	else if (!noted)
	{
		Noting		noting = {trigger, own, derivation, {(Oid) rehome_int64(rows->value[0][2]), rows->value[0][1]},
		rows->value[0][0], (Oid) rehome_int64(rows->value[0][3]), rehome_name_list(rows->value[0][4])};

		note(&noting, rows->value[0][8]);
	}
	rehome_call_end(&call);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return PointerGetDatum(NULL);
}

/*
 * as_row returns a tuple as a value of the target's row type, which a
 * partition's may differ from; SQL null for no tuple.
 */
static Datum
as_row(Relation rel, TupleDesc target_desc, HeapTuple tuple)
{
	TupleConversionMap *conversion;

	if (tuple == NULL)
		return (Datum) 0;
	conversion = convert_tuples_by_name(RelationGetDescr(rel), target_desc);
	if (conversion != NULL)
		tuple = execute_attr_map_tuple(tuple, conversion);
	return heap_copy_tuple_as_datum(tuple, target_desc);
}

/*
 * call_write_back calls a derivation's function with a row of the target as it
 * was and as it is.
 */
static void
call_write_back(TriggerData *trigger, RehomeRows *derivation)
{
	RehomeStated stated = {(Oid) rehome_int64(derivation->value[0][1]), derivation->value[0][2]};
	Relation	target = table_open((Oid) rehome_int64(derivation->value[0][3]), AccessShareLock);
	bool		inserted = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	HeapTuple	old_tuple = inserted ? NULL : trigger->tg_trigtuple;
	HeapTuple	new_tuple = inserted ? trigger->tg_trigtuple :
		TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : NULL;
	Oid			types[2] = {target->rd_rel->reltype, target->rd_rel->reltype};
	Datum		values[2] = {as_row(trigger->tg_relation, RelationGetDescr(target), old_tuple),
	as_row(trigger->tg_relation, RelationGetDescr(target), new_tuple)};
	char		nulls[3] = {old_tuple ? ' ' : 'n', new_tuple ? ' ' : 'n', '\0'};
	RehomeAs	as;
	int			level;
	int			rc;

	table_close(target, AccessShareLock);
	level = rehome_stated_enter_writing(&stated);
	rehome_become(&as, stated.owner);
	rc = SPI_execute_with_args(psprintf("SELECT %s($1, $2)", derivation->value[0][0]), 2, types, values, nulls, false, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not write back: %s", SPI_result_code_string(rc));
	rehome_become_self(&as);
	rehome_stated_leave(level);
}

/*
 * is_writing_back tells whether a derivation's function is running.
 */
static bool
is_writing_back(int derivation)
{
	for (WritingBack *w = writing_back; w != NULL; w = w->outer)
		if (w->derivation == derivation)
			return true;
	return false;
}

PG_FUNCTION_INFO_V1(rehome_write_back);

/*
 * rehome_write_back() RETURNS trigger; argument: the derivation's id.
 */
Datum
rehome_write_back(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	WritingBack self = {0, writing_back};
	RehomeCall	call;
	RehomeRows *rows;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs != 1 ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("rehome.write_back() must be called as an AFTER ROW trigger"));
	self.derivation = pg_strtoint32(trigger->tg_trigger->tgargs[0]);
	/* what the function writes to the target itself is no write of the application's */
	if (is_writing_back(self.derivation) || rehome_own_writes(trigger->tg_relation))
		return PointerGetDatum(NULL);
	rehome_call_begin(&call, fcinfo);
	rows = rehome_spi_read("SELECT d.write_back, m.owner::oid, d.search_path, d.target::oid FROM rehome.derivation d"
						   " JOIN rehome.migration m ON m.id = d.migration_id WHERE d.id = $1", "i", self.derivation);
	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("derivation %s of \"%s\" does not exist", trigger->tg_trigger->tgargs[0],
					   RelationGetRelationName(trigger->tg_relation)));
	if (!rehome_is_part(trigger->tg_relation, (Oid) rehome_int64(rows->value[0][3])))
	{
		rehome_call_end(&call);
		return PointerGetDatum(NULL);
	}
	writing_back = &self;
	PG_TRY();
	{
		call_write_back(trigger, rows);
	}
	PG_FINALLY();
	{
		writing_back = self.outer;
	}
	PG_END_TRY();
	rehome_call_end(&call);
	return PointerGetDatum(NULL);
}
