/*-------------------------------------------------------------------------
 *
 * query.c
 *	  SQL for a PostgreSQL source: names, columns, positions.
 *
 * A query sees a source table as
 *
 *		(SELECT r."remote" AS "local", ..., r.ctid FROM schema.table r) AS source
 *
 * which the source's planner flattens.  So filters and column lists are
 * written with the names of the foreign table, whatever its options rename.
 *
 * A position is the text of a txid_snapshot.  A change is new since a
 * position when its transaction was not visible in it: xid >= xmax, or xid
 * among those in progress.  Both are ranges of the index on xid.  Never is
 * the largest xid or id seen taken for a watermark: whoever commits late
 * would be skipped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "remote/query.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static const char *
option(List *options, const char *name, const char *otherwise)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return otherwise;
}

/* What is known of foreign tables, by OID. */
typedef struct CachedTable
{
	Oid			relid;
	bool		valid;
	MemoryContext context;
	RehomeRemoteTable *table;
} CachedTable;

static HTAB *cache = NULL;

/* Contexts of entries that are not valid any more but may still be in use. */
static List *stale = NIL;

static void
invalidate_table(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CachedTable *entry;

	if (OidIsValid(relid))
	{
		entry = hash_search(cache, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->valid = false;
		return;
	}
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->valid = false;
}

static void
invalidate_all(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate_table(arg, InvalidOid);
}

/*
 * free_stale frees, at the end of a transaction, what nobody can be using.
 */
static void
free_stale(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	foreach(lc, stale)
		MemoryContextDelete(lfirst(lc));
	list_free(stale);
	stale = NIL;
}

static void
make_cache(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(CachedTable)};

	cache = hash_create("pg_rehome source tables", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(invalidate_table, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNTABLEREL, invalidate_all, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_all, (Datum) 0);
	RegisterXactCallback(free_stale, NULL);
}

/*
 * read_table reads the names a foreign table's options give.
 */
static RehomeRemoteTable *
read_table(Oid foreign_table)
{
	Relation	rel = table_open(foreign_table, AccessShareLock);
	ForeignTable *ft = GetForeignTable(foreign_table);
	TupleDesc	desc = RelationGetDescr(rel);
	RehomeRemoteTable *table = palloc0(sizeof(RehomeRemoteTable));

	table->schema = pstrdup(option(ft->options, "schema_name",
								   get_namespace_name(RelationGetNamespace(rel))));
	table->table = pstrdup(option(ft->options, "table_name",
								  RelationGetRelationName(rel)));
	table->natts = desc->natts;
	table->local = palloc0(sizeof(char *) * desc->natts);
	table->remote = palloc0(sizeof(char *) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		table->local[i] = pstrdup(NameStr(att->attname));
		table->remote[i] = pstrdup(option(GetForeignColumnOptions(foreign_table, i + 1),
										  "column_name", table->local[i]));
	}
	table_close(rel, AccessShareLock);
	return table;
}

/*
 * rehome_remote_table returns the names a foreign table's options give, valid
 * to the end of the transaction.  They are kept until somebody alters them:
 * each batch asks for those of all tables.
 */
RehomeRemoteTable *
rehome_remote_table(Oid foreign_table)
{
	CachedTable *entry;
	MemoryContext context;
	MemoryContext old;
	RehomeRemoteTable *table;
	bool		found;

	if (cache == NULL)
		make_cache();
	entry = hash_search(cache, &foreign_table, HASH_FIND, NULL);
	if (entry != NULL && entry->valid)
		return entry->table;

	context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome source table",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	table = read_table(foreign_table);
	MemoryContextSwitchTo(TopMemoryContext);
	entry = hash_search(cache, &foreign_table, HASH_ENTER, &found);
	if (found)
		stale = lappend(stale, entry->context);
	MemoryContextSetParent(context, TopMemoryContext);
	entry->context = context;
	entry->table = table;
	entry->valid = true;
	MemoryContextSwitchTo(old);
	return table;
}

/*
 * rehome_remote_column returns what the source calls a column; NULL when the
 * foreign table has no such column.
 */
const char *
rehome_remote_column(RehomeRemoteTable *table, const char *local)
{
	for (int i = 0; i < table->natts; i++)
		if (table->local[i] != NULL && strcmp(table->local[i], local) == 0)
			return table->remote[i];
	return NULL;
}

/*
 * rehome_remote_relation returns the qualified name of the source table.
 */
char *
rehome_remote_relation(RehomeRemoteTable *table)
{
	return quote_qualified_identifier(table->schema, table->table);
}

/*
 * rehome_remote_relations returns the source's names of the maps' tables,
 * separated by commas; with literal, each as an expression that is its
 * regclass, or NULL when there is none.
 */
char *
rehome_remote_relations(List *maps, bool literal)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char	   *name = rehome_remote_relation(rehome_remote_table(map->source));

		appendStringInfoString(&buf, buf.len ? ", " : "");
		if (literal)
			appendStringInfo(&buf, "to_regclass(%s)", quote_literal_cstr(name));
		else
			appendStringInfoString(&buf, name);
	}
	return buf.data;
}

/*
 * rehome_remote_names returns them as the text of an array.
 */
char *
rehome_remote_names(List *maps)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		names = lappend(names, rehome_remote_relation(rehome_remote_table(((RehomeTableMap *) lfirst(lc))->source)));
	return rehome_name_array(names);
}

/*
 * rehome_remote_from appends the FROM item described at the top.  part is a
 * qualified relation to read instead (a partition), or NULL; with only, its
 * descendants are left out.
 */
void
rehome_remote_from(StringInfo sql, RehomeRemoteTable *table,
				   const char *part, bool only)
{
	appendStringInfoString(sql, "(SELECT ");
	for (int i = 0; i < table->natts; i++)
		if (table->local[i] != NULL)
		{
			appendStringInfo(sql, "r.%s AS ", quote_identifier(table->remote[i]));
			appendStringInfo(sql, "%s, ", quote_identifier(table->local[i]));
		}
	appendStringInfo(sql, "%s FROM %s%s r) AS source",
					 only ? "r.ctid" : "NULL", only ? "ONLY " : "",
					 part ? part : rehome_remote_relation(table));
}

/*
 * rehome_remote_key_array returns the source's names of the key columns as
 * the text of an array.
 */
char *
rehome_remote_key_array(RehomeTableMap *map, RehomeRemoteTable *table)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, map->source_key)
		names = lappend(names, (char *) rehome_remote_column(table, lfirst(lc)));
	return rehome_name_array(names);
}

/*
 * rehome_change_table, rehome_stage_table and rehome_outside_table name what
 * create_capture, create_stage and create_outside make.
 */
char *
rehome_change_table(RehomeMigration *migration, RehomeTableMap *map)
{
	return quote_qualified_identifier("rehome_source",
									  psprintf("change_%s_%d", migration->token, map->id));
}

char *
rehome_stage_table(RehomeMigration *migration, RehomeTableMap *map)
{
	return quote_qualified_identifier("rehome_source",
									  psprintf("stage_%s_%d", migration->token, map->id));
}

char *
rehome_outside_table(RehomeMigration *migration, RehomeTableMap *map)
{
	return quote_qualified_identifier("rehome_source",
									  psprintf("outside_%s_%d", migration->token, map->id));
}

/*
 * spelling returns, as SQL, how a value is spelled: as its type puts it out.  A
 * cast to text may be a function of whoever has the type, and would run with the
 * rights of whoever asks.  A null is spelled '': it is told by the value itself.
 */
static char *
spelling(const char *value)
{
	return psprintf("concat(%s) COLLATE \"C\"", value);
}

/*
 * rehome_append_keys appends the n columns of a key as tables of ours have
 * them, "key1, key2, ...", and the spelling of those (counted from 0) of which
 * several make for several keys.
 */
void
rehome_append_keys(StringInfo sql, int n, Bitmapset *spelled)
{
	for (int i = 1; i <= n; i++)
		appendStringInfo(sql, "%skey%d", i > 1 ? ", " : "", i);
	for (int i = -1; (i = bms_next_member(spelled, i)) >= 0;)
		appendStringInfo(sql, ", %s", spelling(psprintf("key%d", i + 1)));
}

/*
 * rehome_spelled_alike returns the condition that two values are spelled the
 * same.
 */
char *
rehome_spelled_alike(const char *a, const char *b)
{
	return psprintf("%s = %s", spelling(a), spelling(b));
}

/*
 * rehome_changed_keys appends a subquery of the distinct keys changed since
 * a position, and of more (FROM items of "source"; char *), as key1, key2, ...,
 * in order; with gone_only those that may be without a row.  Two spellings of a
 * key are two keys where spelled (counted from 0, as
 * rehome_mapping_source_spelled() has them) says so.
 */
void
rehome_changed_keys(StringInfo sql, RehomeMigration *migration, RehomeTableMap *map,
					Bitmapset *spelled, const char *since, List *more, bool gone_only)
{
	int			n = list_length(map->source_key);
	ListCell   *lc;

	appendStringInfoString(sql, "(SELECT ");
	rehome_append_keys(sql, n, NULL);
	appendStringInfoString(sql, " FROM (SELECT ");
	rehome_append_keys(sql, n, NULL);
	appendStringInfo(sql, " FROM %s WHERE %s AND op %s",
					 rehome_change_table(migration, map),
					 rehome_position_unseen(since), gone_only ? "= 'd'" : "<> 't'");
	foreach(lc, gone_only ? NIL : more)
		appendStringInfo(sql, " UNION ALL SELECT %s FROM %s", rehome_quote_list(map->source_key, "source."), (char *) lfirst(lc));
	appendStringInfoString(sql, ") AS changed GROUP BY ");
	rehome_append_keys(sql, n, spelled);
	appendStringInfoString(sql, " ORDER BY ");
	rehome_append_keys(sql, n, spelled);
	appendStringInfoChar(sql, ')');
}

/*
 * rehome_source_equal returns the operator by which the source's unique index
 * compares the key's column i, as SQL.
 */
const char *
rehome_source_equal(RehomeTableMap *map, int i)
{
	return map->source_equal ? list_nth(map->source_equal, i) : "=";
}

/*
 * rehome_join_key appends "row.col = key.key1 AND ...", with the operators
 * the source's unique index uses; those that are spelled as well are to be
 * spelled the same.
 */
void
rehome_join_key(StringInfo sql, RehomeTableMap *map, Bitmapset *spelled,
				const char *row_alias, const char *key_alias)
{
	int			i = 0;
	ListCell   *lc;

	foreach(lc, map->source_key)
	{
		appendStringInfo(sql, "%s%s.%s %s %s.key%d", i > 0 ? " AND " : "",
						 row_alias, quote_identifier(lfirst(lc)),
						 rehome_source_equal(map, i),
						 key_alias, i + 1);
		if (bms_is_member(i, spelled))
			appendStringInfo(sql, " AND %s",
							 rehome_spelled_alike(psprintf("%s.%s", row_alias, quote_identifier(lfirst(lc))),
												  psprintf("%s.key%d", key_alias, i + 1)));
		i++;
	}
}

/*
 * split_position checks the text of a snapshot and cuts it in three.
 */
static void
split_position(const char *position, int64 *xmax, const char **xip)
{
	const char *first = strchr(position, ':');
	const char *second = first ? strchr(first + 1, ':') : NULL;

	if (second == NULL || strspn(position, "0123456789:,") != strlen(position))
		elog(ERROR, "malformed snapshot position \"%s\"", position);
	*xmax = strtoi64(first + 1, NULL, 10);
	*xip = second + 1;
}

/*
 * rehome_position_unseen returns a condition on column xid: not visible in
 * the position.
 */
char *
rehome_position_unseen(const char *position)
{
	int64		xmax;
	const char *xip;

	split_position(position, &xmax, &xip);
	if (xip[0] == '\0')
		return psprintf("xid >= " INT64_FORMAT, xmax);
	return psprintf("(xid >= " INT64_FORMAT " OR xid = ANY ('{%s}'::bigint[]))", xmax, xip);
}

/*
 * rehome_position_seen returns the opposite condition: visible in it, and so
 * never asked for again.
 */
char *
rehome_position_seen(const char *position)
{
	int64		xmax;
	const char *xip;

	split_position(position, &xmax, &xip);
	return psprintf("(xid < " INT64_FORMAT " AND xid <> ALL ('{%s}'::bigint[]))", xmax, xip);
}

/*
 * rehome_position_covers tells whether every transaction that is visible in
 * another position is visible in this one.
 */
bool
rehome_position_covers(const char *position, const char *other)
{
	int64		xmax;
	const char *xip;

	split_position(position, &xmax, &xip);
	if (rehome_position_xmax(other) > xmax)
		return false;
	return xip[0] == '\0' ||
		rehome_bool(rehome_spi_value("SELECT NOT EXISTS (SELECT FROM pg_snapshot_xip($1::pg_snapshot) AS x"
									 " WHERE pg_visible_in_snapshot(x, $2::pg_snapshot))", "tt", position, other));
}

int64
rehome_position_xmax(const char *position)
{
	int64		xmax;
	const char *xip;

	split_position(position, &xmax, &xip);
	return xmax;
}

/*
 * rehome_position_sees tells whether a transaction is visible in a position.
 */
bool
rehome_position_sees(const char *position, int64 xid)
{
	int64		xmax;
	const char *xip;

	split_position(position, &xmax, &xip);
	if (xid >= xmax)
		return false;
	while (*xip != '\0')
	{
		char	   *end;

		if (strtoi64(xip, &end, 10) == xid)
			return false;
		xip = end + (*end != '\0');
	}
	return true;
}

/*
 * rehome_quote_list returns quoted names separated by commas, each after
 * prefix.
 */
char *
rehome_quote_list(List *names, const char *prefix)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, names)
		appendStringInfo(&buf, "%s%s%s", buf.len ? ", " : "", prefix,
						 quote_identifier(lfirst(lc)));
	return buf.data;
}
