/*-------------------------------------------------------------------------
 *
 * touched.c
 *	  Keys that were touched since a verification had looked at all rows.
 *
 * Rows that were equal under one pair of snapshots are equal under a later
 * one, unless something has written to one of them on either side, or the
 * rules are others.  So a verification that follows one of all rows has but
 * to compare the keys that were written since.  Each way a row can change
 * tells its key:
 *
 *	at the source			the change table; the batch that applies the key
 *							writes it down here, in its own transaction,
 *							since the change rows are pruned afterwards
 *	at the target, by us	the same batch: it writes to no other keys
 *	at the target, by
 *	somebody, as drift		rehome.drift, by the transaction's id
 *	at the target, after
 *	cutover					rehome_change; written down here by the
 *							transaction that prunes it
 *
 * and rows that did differ have theirs in rehome.discrepancy.  What reads a
 * table as a whole, or changes what the rules give, leaves the word that all
 * rows have to be compared (rehome.full_pass.unknown).
 *
 * State: rehome.full_pass has a row for each table map with a verification to
 * go on from, as of the position at both sides.  The keys are in
 * rehome_change.touched_N, typed and unique, so that a row that changes all
 * day is in it once.  Both begin anew in the transaction of each verification
 * that knows every difference by its key, under the work lock of the slice,
 * which is also held by whoever writes here: no batch comes in between.
 * A verification of all rows may go part by part, each in a transaction of its
 * own: then they begin anew with its first part, and full_pass.upto says how
 * far it has come.  Only when that is to the end is there something to go on
 * from; every row was equal at some time since, and has its key here if it was
 * touched after the first part.
 *
 * Without a row in rehome.full_pass nothing is written down and nothing is
 * paid.  A restored database has none: transaction ids mean nothing there.
 *
 * Never seen: a write that fires no trigger of ours (a session in replica
 * role, a disabled trigger, a damaged page).  That is what looking at all
 * rows is for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "apply/apply.h"
#include "apply/touched.h"
#include "capture/capture.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "guc.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "remote/query.h"
#include "util/position.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/* Keys that are compared at once. */
#define PART_KEYS 10000

#define TRUNCATED "the target was truncated since"
#define UNGUARDED "the guard was off since"
#define RETYPED "the type of the key has changed since"

/*
 * table_name returns the qualified name of a map's table of keys.
 */
static char *
table_name(RehomeTableMap *map)
{
	return psprintf("rehome_change.touched_%d", map->id);
}

/*
 * key_list returns "key1, key2, ..." of a map.
 */
static char *
key_list(RehomeTableMap *map)
{
	StringInfoData buf;

	initStringInfo(&buf);
	rehome_append_keys(&buf, list_length(map->key), NULL);
	return buf.data;
}

/*
 * keys_relation returns its OID, or InvalidOid while there is none.
 */
static Oid
keys_relation(RehomeTableMap *map)
{
	return get_relname_relid(psprintf("touched_%d", map->id), get_namespace_oid("rehome_change", false));
}

/*
 * fits tells whether the table of keys is there, with the types the key has
 * now.
 */
static bool
fits(RehomeMapping *mapping)
{
	Oid			relid = keys_relation(mapping->map);
	Relation	rel;
	bool		same;

	if (!OidIsValid(relid))
		return false;
	rel = table_open(relid, AccessShareLock);
	same = RelationGetNumberOfAttributes(rel) == mapping->nkey;
	for (int k = 0; same && k < mapping->nkey; k++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), k);

		same = att->atttypid == getBaseType(mapping->key[k]->type) &&
			att->attcollation == mapping->key[k]->collation;
	}
	table_close(rel, AccessShareLock);
	return same;
}

/*
 * rehome_touched_mark finds out for which of the maps keys are written down.
 * It is asked in each transaction that is going to write: maps may be known
 * from an earlier one, and a verification have come in between.
 */
void
rehome_touched_mark(RehomeSlice *slice, List *maps)
{
	RehomeRows *rows = rehome_spi("SELECT p.table_map_id FROM rehome.full_pass p"
								  " JOIN rehome.table_map t ON t.id = p.table_map_id"
								  " WHERE t.slice_id = $1 AND p.unknown IS NULL", "i", slice->id);
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		map->tracked = false;
		for (int i = 0; i < rows->n && !map->tracked; i++)
			map->tracked = rehome_int(rows->value[i][0]) == map->id;
	}
}

/*
 * rehome_touched_check sees to it that the keys of a mapping can be written
 * down: outside of any subtransaction, which might take back that they cannot.
 */
void
rehome_touched_check(RehomeMapping *mapping)
{
	if (mapping->map->tracked && !fits(mapping))
		rehome_touched_all(mapping->map, RETYPED);
}

/*
 * rehome_touched_keys writes down the keys of n rows, which are described by
 * desc: mapped rows or keys.  Whoever is the current user.
 */
void
rehome_touched_keys(RehomeMapping *mapping, TupleDesc desc, Tuplestorestate *store, int64 n)
{
	RehomeTableMap *map = mapping->map;
	RehomeAs	as;

	if (!map->tracked || n == 0)
		return;
	rehome_become_catalog_owner(&as);
	rehome_rows_register("rehome_touched", desc, store, n);
	rehome_spi(psprintf("INSERT INTO %s (%s) SELECT %s FROM rehome_touched ON CONFLICT DO NOTHING",
						table_name(map), key_list(map), rehome_quote_list(map->key, "")), "");
	rehome_rows_unregister("rehome_touched");
	rehome_become_self(&as);
}

/*
 * forget_keys notes that the touched keys of a table are not all known, and
 * why; with again, that what was compared of it is not what it has now.
 */
static void
forget_keys(RehomeTableMap *map, const char *why, bool again)
{
	RehomeAs	as;

	if (!map->tracked)
		return;
	rehome_become_catalog_owner(&as);
	rehome_spi("UPDATE rehome.full_pass SET unknown = $2, upto = CASE WHEN NOT $3 THEN upto END"
			   " WHERE table_map_id = $1 AND unknown IS NULL", "itb", map->id, why, again);
	rehome_become_self(&as);
	map->tracked = false;
}

/*
 * rehome_touched_all notes that any row of a table may have been touched, and
 * why.
 */
void
rehome_touched_all(RehomeTableMap *map, const char *why)
{
	forget_keys(map, why, true);
}

/*
 * rehome_touched_bound is told at the end of a batch's part that n keys of a
 * table were written down, known ones included, and gives up when they are
 * more than rehome.max_touched_keys.
 */
void
rehome_touched_bound(RehomeTableMap *map, int64 n)
{
	int64		keys;

	if (!map->tracked || n == 0)
		return;
	keys = rehome_int64(rehome_spi_value("UPDATE rehome.full_pass SET keys = keys + $2 WHERE table_map_id = $1 RETURNING keys", "il",
										 map->id, n));
	if (keys <= rehome_max_touched_keys)
		return;
	keys = rehome_int64(rehome_spi_value(psprintf("SELECT count(*) FROM %s", table_name(map)), ""));
	rehome_spi("UPDATE rehome.full_pass SET keys = $2 WHERE table_map_id = $1", "il", map->id, keys);
	if (keys > rehome_max_touched_keys)
		forget_keys(map, psprintf("more than %d rows have changed since", rehome_max_touched_keys), false);
}

/*
 * change_rows returns the name of the target's change table of a map, or NULL
 * while there is none.
 */
static char *
change_rows(RehomeTableMap *map)
{
	char	   *name = rehome_target_change_table(map);

	if (!OidIsValid(get_relname_relid(name, get_namespace_oid("rehome_change", false))))
		return NULL;
	return psprintf("rehome_change.%s", name);
}

/*
 * rehome_touched_captured writes down the keys that the target's change table
 * has since the last verification: they are about to be pruned, or wanted.  After
 * a rollback nobody prunes them.
 */
void
rehome_touched_captured(RehomeTableMap *map)
{
	char	   *change = map->tracked ? change_rows(map) : NULL;
	char	   *unseen;

	if (change == NULL)
		return;
	unseen = rehome_position_unseen(rehome_spi_value("SELECT position FROM rehome.full_pass WHERE table_map_id = $1", "i", map->id));
	if (rehome_spi("SELECT FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = $2::regclass AND b.attname = a.attname"
				   " WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND a.atttypid <> b.atttypid", "tt",
				   table_name(map), change)->n > 0)
		rehome_touched_all(map, RETYPED);
	else if (rehome_spi(psprintf("SELECT FROM %s WHERE op IN ('t', 'l') AND %s LIMIT 1", change, unseen), "")->n > 0)
		rehome_touched_all(map, TRUNCATED);
	else
		rehome_touched_bound(map, (int64) rehome_spi(psprintf("INSERT INTO %s SELECT %s FROM %s WHERE %s ON CONFLICT DO NOTHING",
															   table_name(map), key_list(map), change, unseen), "")->processed);
}

/*
 * collect_drift writes down what drift has touched since a position of the
 * target.  After a TRUNCATE, or with the guard off, it may be everything.
 */
static char *
collect_drift(RehomeSlice *slice, RehomeTableMap *map, const char *position)
{
	char	   *unseen = rehome_position_unseen(position);
	char	   *among = psprintf("d.migration = $1::name AND d.slice = $2::name AND d.target = $3 AND d.side = 'target' AND %s", unseen);
	RehomeRows *rows = rehome_spi(psprintf("SELECT d.kind FROM rehome.drift d WHERE %s AND d.kind IN ('truncate', 'guard off') LIMIT 1", among), "tto",
								  slice->migration->name, slice->name, map->target);

	if (rows->n > 0)
		return rows->value[0][0][0] == 't' ? TRUNCATED : UNGUARDED;
	/* an update may have changed the key */
	rehome_spi(psprintf("INSERT INTO %s SELECT k.* FROM rehome.drift d,"
						" LATERAL (VALUES (d.old_row), (d.new_row)) AS r(row),"
						" LATERAL (SELECT jsonb_object_agg('key' || c.n, r.row -> c.name) AS key"
						"   FROM unnest($4::text[]) WITH ORDINALITY AS c(name, n)) AS c,"
						" LATERAL jsonb_populate_record(NULL::%s, c.key) AS k"
						" WHERE r.row IS NOT NULL AND %s ON CONFLICT DO NOTHING",
						table_name(map), table_name(map), among), "ttot",
			   slice->migration->name, slice->name, map->target, rehome_name_array(map->key));
	return NULL;
}

/*
 * collect_discrepancies writes down the keys of what is known to differ, and of
 * what somebody has called resolved since: nothing but a comparison tells.
 */
static void
collect_discrepancies(RehomeSlice *slice, RehomeTableMap *map)
{
	rehome_spi(psprintf("INSERT INTO %s SELECT k.* FROM rehome.discrepancy d,"
						" LATERAL (SELECT jsonb_object_agg('key' || c.n, d.key -> c.name) AS key"
						"   FROM unnest($4::text[]) WITH ORDINALITY AS c(name, n)) AS c,"
						" LATERAL jsonb_populate_record(NULL::%s, c.key) AS k"
						" WHERE d.migration = $1::name AND d.slice = $2::name AND d.target = $3"
						" AND (d.resolved_at IS NULL OR d.resolved_at > (SELECT at FROM rehome.full_pass WHERE table_map_id = $5))"
						" ON CONFLICT DO NOTHING", table_name(map), table_name(map)), "ttoti",
			   slice->migration->name, slice->name, map->target, rehome_name_array(map->key), map->id);
}

/*
 * may_run_code tells whether reading a value of a type can run what somebody
 * who is no superuser has written, as domains inside of others do: keys are
 * read from jsonb here with the rights of the extension's owner.
 */
static bool
may_run_code(Oid type)
{
	char		kind = get_typtype(type);

	return type >= FirstNormalObjectId && kind != TYPTYPE_ENUM &&
		(kind != TYPTYPE_BASE || OidIsValid(get_element_type(type)));
}

/*
 * has_json tells whether a type is made JSON by a function that somebody has
 * written: rows on record, as drift is, do not tell its values then.
 */
static bool
has_json(Oid type)
{
	Oid			function;

	return type >= FirstNormalObjectId &&
		find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &function) == COERCION_PATH_FUNC;
}

/*
 * takes_for_one tells whether a column of the target's key takes for one what may
 * be several keys of the source: that many keys are not written down then.
 */
static bool
takes_for_one(RehomeMapping *mapping, int k)
{
	RehomeMappedColumn *key = mapping->key[k];

	return (OidIsValid(key->collation) && !get_collation_isdeterministic(key->collation)) ||
		(key->plain != 0 && bms_is_member(k, mapping->looser));
}

/*
 * unfit returns why the touched keys of a table would not be enough, whatever
 * has been touched; NULL when they would.
 */
static char *
unfit(RehomeMapping *mapping)
{
	if (rehome_mapping_source_key(mapping) == NIL)
		return "the key is computed";
	if (!rehome_key_is_unique(mapping->map->target, mapping->map->key))
		return "the target does not see to it that keys are unique";
	for (int k = 0; k < mapping->nkey; k++)
		if (may_run_code(getBaseType(mapping->key[k]->type)))
			return psprintf("the type of key column %s may have constraints of its own",
							quote_identifier(mapping->key[k]->name));
	for (int k = 0; k < mapping->nkey; k++)
		if (has_json(getBaseType(mapping->key[k]->type)))
			return psprintf("the type of key column %s has a cast to json of its own",
							quote_identifier(mapping->key[k]->name));
	for (int k = 0; k < mapping->nkey; k++)
	{
		Oid			type = getBaseType(mapping->key[k]->type);

		/* the bounds of the one, and the null of the other */
		if (type == JSONBOID || OidIsValid(get_element_type(type)))
			return psprintf("JSON does not tell all values of key column %s",
							quote_identifier(mapping->key[k]->name));
	}
	for (int k = 0; k < mapping->nkey; k++)
		if (takes_for_one(mapping, k))
			return psprintf("key column %s takes several keys for one", quote_identifier(mapping->key[k]->name));
	for (int c = 0; c < mapping->ncolumns; c++)
		if (contain_mutable_functions((Node *) mapping->columns[c].expr) ||
			contain_mutable_functions((Node *) mapping->columns[c].instead))
			return psprintf("the rule of column %s looks at more than the row",
							quote_identifier(mapping->columns[c].name));
	return NULL;
}

/*
 * altered returns what has happened to a map's tables after cutover that may have
 * changed rows without a trigger; NULL when nothing has.  A batch back looks for it
 * by itself, but that of a verification cannot pause a table; one from the source
 * has looked.
 */
static char *
altered(RehomeConn *conn, RehomeTableMap *map)
{
	List	   *maps = list_make1(map);

	if (rehome_structure_lossy(map->target_columns, linitial(rehome_structures(NULL, maps))))
		return "the target was altered since";
	if (rehome_structure_lossy(map->source_columns, linitial(rehome_structures(conn, maps))))
		return "the source was altered since";
	return NULL;
}

/*
 * rehome_touched_collect gets the touched keys of a table together.  Returns
 * why all its rows have to be compared instead, or NULL.
 */
char *
rehome_touched_collect(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping)
{
	RehomeTableMap *map = mapping->map;
	char	   *why = unfit(mapping);
	RehomeRows *rows;
	char	  **v;

	if (why != NULL)
		return why;
	rows = rehome_spi("SELECT unknown, rules_hash IS NOT DISTINCT FROM rehome.rules_hash($1), state, position, upto"
					  " FROM rehome.full_pass WHERE table_map_id = $1", "i", map->id);
	if (rows->n == 0)
		return "no verification of all rows is on record";
	v = rows->value[0];
	if (v[4] != NULL)
		return "the last verification of all rows has not come to its end";
	if (v[0] != NULL)
		return v[0];
	if (!rehome_bool(v[1]))
		return "the rules have changed since";
	/* after cutover only columns that can be carried back are compared */
	if (slice->state != REHOME_CUT_OVER && strcmp(v[2], rehome_state_name(slice->state)) != 0)
		return "the last verification of all rows was made while the target had authority";
	if (!fits(mapping))
		return RETYPED;
	if (slice->state == REHOME_CUT_OVER && (why = altered(conn, map)) != NULL)
		return why;
	map->tracked = true;
	rehome_touched_captured(map);
	if (!map->tracked)
		return rehome_spi_value("SELECT unknown FROM rehome.full_pass WHERE table_map_id = $1", "i", map->id);
	why = collect_drift(slice, map, v[3]);
	if (why == NULL)
		collect_discrepancies(slice, map);
	CommandCounterIncrement();
	return why;
}

/*
 * make_table makes the table of keys.
 */
static void
make_table(RehomeTableMap *map)
{
	if (OidIsValid(keys_relation(map)))
		rehome_spi(psprintf("DROP TABLE %s", table_name(map)), "");
	rehome_spi(psprintf("CREATE TABLE %s (%s, UNIQUE NULLS NOT DISTINCT (%s))",
						table_name(map), rehome_target_key_columns(map), key_list(map)), "");
	/* where all tables are published, rows could not be deleted else */
	rehome_spi(psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", table_name(map)), "");
}

/*
 * rehome_touched_restart notes that every difference of a table is on record
 * as of the active snapshot.  full: all rows were looked at, and were so many;
 * else those that had been touched.  After cutover these were not looked at in
 * all columns: what there is to go on from then stays as it is, for the time
 * after a rollback.
 */
void
rehome_touched_restart(RehomeSlice *slice, RehomeMapping *mapping, bool full, int64 rows)
{
	RehomeTableMap *map = mapping->map;
	char	   *position;

	if (rehome_max_touched_keys == 0 || unfit(mapping) != NULL)
	{
		rehome_touched_forget(map);
		return;
	}
	if (!full && slice->state == REHOME_CUT_OVER &&
		rehome_spi("SELECT FROM rehome.full_pass WHERE table_map_id = $1 AND state <> $2", "it",
				   map->id, rehome_state_name(slice->state))->n > 0)
		return;
	if (fits(mapping))
		rehome_spi(psprintf("DELETE FROM %s", table_name(map)), "");
	else
		make_table(map);
	position = rehome_position_of_active();
	rehome_spi("INSERT INTO rehome.full_pass AS p (table_map_id, full_at, rows, at, state, position, rules_hash)"
			   " VALUES ($1, clock_timestamp(), $5, clock_timestamp(), $2, $3, rehome.rules_hash($1))"
			   " ON CONFLICT (table_map_id) DO UPDATE SET full_at = CASE WHEN $4 THEN excluded.full_at ELSE p.full_at END,"
			   " rows = CASE WHEN $4 THEN excluded.rows ELSE p.rows END, at = excluded.at, state = excluded.state,"
			   " position = excluded.position, rules_hash = excluded.rules_hash, keys = 0, unknown = NULL, upto = NULL", "ittbl",
			   map->id, rehome_state_name(slice->state), position, full, rows);
}

/*
 * rehome_touched_divisible tells whether a verification of all rows of a table
 * can go part by part: by ranges of its key, a single integer.
 */
bool
rehome_touched_divisible(RehomeMapping *mapping)
{
	Oid			type = getBaseType(mapping->key[0]->type);

	return rehome_max_touched_keys > 0 && mapping->nkey == 1 && mapping->key[0]->plain != 0 &&
		rehome_is_integer(type) && unfit(mapping) == NULL;
}

/*
 * rehome_touched_upto returns the key up to which a verification in parts has
 * come, to go on from, and in *n how many rows that were; NULL when there is
 * none.
 */
char *
rehome_touched_upto(RehomeSlice *slice, RehomeMapping *mapping, int64 *n)
{
	RehomeTableMap *map = mapping->map;
	RehomeRows *rows = rehome_spi("SELECT upto, rows FROM rehome.full_pass WHERE table_map_id = $1 AND state = $2"
								  " AND rules_hash IS NOT DISTINCT FROM rehome.rules_hash($1)", "it",
								  map->id, rehome_state_name(slice->state));

	if (rows->n == 0 || !fits(mapping))
		return NULL;
	*n = rehome_int64(rows->value[0][1]);
	return rows->value[0][0];
}

/*
 * rehome_touched_part notes that the rows with keys smaller than upto were
 * compared, n more of them, since began; upto NULL: all.  recorded tells
 * whether every difference among them is on record.  Returns since when rows
 * were compared, and in *rows how many.
 */
char *
rehome_touched_part(RehomeSlice *slice, RehomeMapping *mapping, bool first, const char *upto,
					int64 n, bool recorded, const char *began, int64 *rows)
{
	RehomeTableMap *map = mapping->map;
	RehomeRows *pass;

	if (first)
		rehome_touched_restart(slice, mapping, true, 0);
	pass = rehome_spi("UPDATE rehome.full_pass SET upto = $2::bigint, rows = rows + $3, at = clock_timestamp(),"
					  " full_at = coalesce($5::timestamptz, full_at),"
					  " unknown = CASE WHEN $4 THEN unknown ELSE 'not every difference is on record' END"
					  " WHERE table_map_id = $1 RETURNING full_at, rows", "itlbt", map->id, upto, n, recorded,
					  first ? began : NULL);
	*rows = rehome_int64(pass->value[0][1]);
	return pass->value[0][0];
}

/*
 * rehome_touched_forget lets go of the last verification of a table: not all
 * that differs is known by its key.
 */
void
rehome_touched_forget(RehomeTableMap *map)
{
	rehome_spi("DELETE FROM rehome.full_pass WHERE table_map_id = $1", "i", map->id);
	map->tracked = false;
}

/*
 * rehome_touched_drop takes everything away that is kept of tables.
 */
void
rehome_touched_drop(List *maps)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		rehome_touched_forget(map);
		if (OidIsValid(keys_relation(map)))
			rehome_spi(psprintf("DROP TABLE %s", table_name(map)), "");
	}
}

/*
 * rehome_touched_spelled returns which columns of the source's key, counted from 0,
 * a row has spelled as its touched key is: those that the target compares letter
 * by letter.  Of others (1.0 and 1.00) one spelling is written down, and both sides
 * take it for any.
 */
Bitmapset *
rehome_touched_spelled(RehomeMapping *mapping)
{
	Bitmapset  *spelled = rehome_mapping_source_spelled(mapping);
	ListCell   *lc;

	foreach(lc, rehome_mapping_source_key(mapping))
		for (int k = 0; k < mapping->nkey; k++)
			if (strcmp(mapping->key[k]->name, lfirst(lc)) == 0 &&
				!rehome_is_by_letter(mapping->key[k]->type, mapping->key[k]->collation))
				spelled = bms_del_member(spelled, foreach_current_index(lc));
	return spelled;
}

/*
 * rehome_touched_open begins to read the touched keys of a table.
 */
RehomeTouched *
rehome_touched_open(RehomeMapping *mapping, Oid owner)
{
	RehomeTouched *touched = palloc0(sizeof(RehomeTouched));
	StringInfoData sql;
	ListCell   *lc;

	touched->mapping = mapping;
	touched->owner = owner;
	initStringInfo(&sql);
	foreach(lc, mapping->map->key)
		appendStringInfo(&sql, "%s key%d AS %s", sql.len ? "," : "SELECT", foreach_current_index(lc) + 1,
						 quote_identifier(lfirst(lc)));
	appendStringInfo(&sql, " FROM %s", table_name(mapping->map));
	/* what has been collected just now is not in the active one */
	PushActiveSnapshot(GetLatestSnapshot());
	touched->cursor = rehome_cursor_open(sql.data);
	PopActiveSnapshot();
	touched->desc = CreateTupleDescCopy(touched->cursor->tupDesc);
	return touched;
}

/*
 * end_part lets go of the part on hand.
 */
static void
end_part(RehomeTouched *touched)
{
	if (touched->store == NULL)
		return;
	rehome_rows_unregister(REHOME_TOUCHED_KEYS);
	tuplestore_end(touched->store);
	touched->store = NULL;
	pfree(touched->source_keys);
}

/*
 * rehome_touched_next puts the next part on hand: visible to SQL as
 * REHOME_TOUCHED_KEYS, and as the source wants it; false at the end.
 */
bool
rehome_touched_next(RehomeTouched *touched)
{
	List	   *columns = rehome_mapping_source_key(touched->mapping);
	SPITupleTable *table;
	StringInfoData sql;
	RehomeAs	as;
	ListCell   *lc;

	CHECK_FOR_INTERRUPTS();
	end_part(touched);
	table = rehome_cursor_fetch(touched->cursor, PART_KEYS);
	if (table == NULL)
		return false;
	touched->store = tuplestore_begin_heap(false, false, work_mem);
	for (uint64 i = 0; i < table->numvals; i++)
		tuplestore_puttuple(touched->store, table->vals[i]);
	touched->n = table->numvals;
	touched->total += touched->n;
	rehome_rows_register(REHOME_TOUCHED_KEYS, touched->desc, touched->store, table->numvals);
	SPI_freetuptable(table);

	initStringInfo(&sql);
	foreach(lc, columns)
		appendStringInfo(&sql, "%s 'key%d', %s", sql.len ? "," : "SELECT jsonb_agg(jsonb_build_object(",
						 foreach_current_index(lc) + 1, quote_identifier(lfirst(lc)));
	appendStringInfoString(&sql, ")) FROM " REHOME_TOUCHED_KEYS);
	rehome_become(&as, touched->owner);
	touched->source_keys = rehome_spi_value(sql.data, "");
	rehome_become_self(&as);
	return true;
}

/*
 * rehome_touched_close ends reading.
 */
void
rehome_touched_close(RehomeTouched *touched)
{
	end_part(touched);
	SPI_cursor_close(touched->cursor);
	pfree(touched);
}
