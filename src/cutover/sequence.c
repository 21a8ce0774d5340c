/*-------------------------------------------------------------------------
 *
 * sequence.c
 *	  Carrying sequences over, never backwards.
 *
 * A sequence follows the column it feeds: identity, serial, or a default
 * that calls nextval().  It is carried if it is ahead, in the direction of
 * its increment, of the one on the other side.  Its column may be called
 * something else there, or be of another type of integer, but has to have the
 * same values: what a rule makes of them only who made it knows.  One may feed
 * several columns, and tables that are not moved: so where it stands is read
 * when it is about to be set.
 *
 * setval() is not transactional.  At the target ALTER SEQUENCE ... RESTART
 * comes first: it gives the sequence a new file in this transaction, and
 * setval() then writes to that, so a rollback takes both back.  Before that it
 * is locked against nextval().  At the source, where we may not own the
 * sequence, setval() is left for the very end, when the local transaction has committed and authority has left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "capture/capture.h"
#include "commands/sequence.h"
#include "cutover/cutover.h"
#include "errors.h"
#include "guc.h"
#include "mapping/mapping.h"
#include "remote/query.h"
#include "storage/bufmgr.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/*
 * Sequences that feed columns of table $1: column, sequence, increment, OID, and
 * how many values a session takes at once.
 * The same text serves both sides.
 */
#define COLUMN_SEQUENCES \
	"SELECT a.attname, s.seqrelid::regclass::text, s.seqincrement, s.seqrelid, s.seqcache" \
	" FROM (SELECT d.refobjid, d.refobjsubid, d.objid FROM pg_depend d" \
	"   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass" \
	"   AND d.refobjid = $1::regclass AND d.deptype IN ('a', 'i')" \
	"  UNION SELECT f.adrelid, f.adnum, d.refobjid FROM pg_attrdef f" \
	"   JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass" \
	"   WHERE f.adrelid = $1::regclass) AS u(relid, attnum, sequence)" \
	" JOIN pg_sequence s ON s.seqrelid = u.sequence" \
	" JOIN pg_attribute a ON a.attrelid = u.relid AND a.attnum = u.attnum" \
	" WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2"

/*
 * rehome_value_sources returns the target columns of a map that have the values
 * of a source column as they are, and that column, as it is called here.  A rule
 * of kind cast or copy may say so by name, or by its expression.
 */
RehomeRows *
rehome_value_sources(RehomeTableMap *map)
{
	return rehome_spi("SELECT c.\"column\", a.attname FROM rehome.column_map c JOIN rehome.table_map t ON t.id = c.table_map_id"
					  " JOIN pg_attribute a ON a.attrelid = t.source::oid AND a.attnum > 0 AND NOT a.attisdropped"
					  " WHERE t.id = $1 AND (c.expression = quote_ident(a.attname)"
					  "  OR c.expression = ANY (SELECT format('(%I)::%s', a.attname, n) FROM unnest('{smallint,integer,bigint,numeric}'::text[]) AS n)"
					  "  OR (a.attname = coalesce(c.source_column, c.\"column\") AND (c.kind = 'cast' OR (c.kind = 'copy' AND c.validation IS NOT NULL))))",
					  "i", map->id);
}

/*
 * rehome_value_source returns the source column that a column has the values of,
 * among rehome_value_sources(); NULL if there is none.
 */
const char *
rehome_value_source(RehomeRows *sources, const char *column)
{
	for (int i = 0; i < sources->n; i++)
		if (strcmp(sources->value[i][0], column) == 0)
			return sources->value[i][1];
	return NULL;
}

/*
 * rehome_sequences_left returns the names (char *) of sequences of a target
 * that nothing carries, although the columns that they feed are mapped.
 */
List *
rehome_sequences_left(RehomeTableMap *map)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *here = rehome_spi_kept(&plan, COLUMN_SEQUENCES, "t", rehome_relation_name(map->target));
	RehomeRows *sources;
	List	   *left = NIL;

	if (here->n == 0)
		return NIL;
	sources = rehome_value_sources(map);
	for (int i = 0; i < here->n; i++)
	{
		ListCell   *lc;

		foreach(lc, map->columns)
		{
			RehomeColumnMap *column = lfirst(lc);

			if (column->kind != REHOME_SKIP && strcmp(column->name, here->value[i][0]) == 0 &&
				rehome_value_source(sources, column->name) == NULL)
				left = lappend(left, here->value[i][1]);
		}
	}
	return left;
}

/*
 * is_from tells whether a column of the source, as it is called there, is the one
 * that is called from here.
 */
static bool
is_from(RehomeRemoteTable *table, const char *from, const char *remote)
{
	for (int a = 0; from != NULL && a < table->natts; a++)
		if (table->local[a] != NULL && strcmp(table->local[a], from) == 0 && strcmp(table->remote[a], remote) == 0)
			return true;
	return false;
}

/*
 * rehome_sequences_not_owned returns the names (char *) of sequences of a target
 * that would be carried, and that a role does not own: it could not set them.
 * *hints gets what helps, one for each.  Those that belong to the table have its
 * owner.
 */
List *
rehome_sequences_not_owned(RehomeConn *conn, RehomeTableMap *map, Oid owner, List **hints)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *here = rehome_spi_kept(&plan, "SELECT f.attname, f.sequence, CASE WHEN EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"
									   "   AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a')"
									   "  THEN format('GRANT %s TO %s;', c.relowner::regrole, $2::oid::regrole)"
									   "  ELSE format('ALTER SEQUENCE %s OWNER TO %s;', f.sequence, $2::oid::regrole) END"
									   " FROM (" COLUMN_SEQUENCES ") AS f(attname, sequence, increment, relid, cache) JOIN pg_class c ON c.oid = f.relid"
									   " WHERE NOT pg_has_role($2, c.relowner, 'USAGE') AND NOT EXISTS (SELECT FROM pg_depend d"
									   "  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass"
									   "  AND d.refobjid = $1::regclass AND d.deptype IN ('a', 'i'))",
									   "to", rehome_relation_name(map->target), owner);
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	RehomeRows *there;
	RehomeRows *sources;
	List	   *names = NIL;

	*hints = NIL;
	if (here->n == 0)
		return NIL;
	there = rehome_conn_query(conn, COLUMN_SEQUENCES, "t", rehome_remote_relation(table));
	sources = rehome_value_sources(map);
	for (int i = 0; i < here->n; i++)
	{
		const char *from = rehome_value_source(sources, here->value[i][0]);
		bool		carried = false;

		for (int j = 0; j < there->n; j++)
			carried = carried || is_from(table, from, there->value[j][0]);
		if (!carried)
			continue;
		names = lappend(names, here->value[i][1]);
		*hints = lappend(*hints, here->value[i][2]);
	}
	return names;
}

/* A sequence on each side that feed the same column. */
typedef struct Pair
{
	char	   *target;
	Oid			relid;			/* of the target's */
	char	   *source;
	int64		increment;		/* the target's */
	int64		target_cache;
	int64		source_cache;
	int64		target_last;
	bool		target_called;
	int64		source_last;
	bool		source_called;
} Pair;

static void
read_position(RehomeRows *rows, int64 *last, bool *called)
{
	*last = rehome_int64(rows->value[0][0]);
	*called = rehome_bool(rows->value[0][1]);
}

/*
 * read_target reads where the target's sequence stands, by its OID: since it was
 * found its name may have been given to a view, which would be read with the
 * rights of the extension's owner.  Taken with lock, it stays there until the end
 * of the transaction, and pair->target is its name now.
 */
static void
read_target(Pair *pair, LOCKMODE lock)
{
	Relation	rel = try_relation_open(pair->relid, lock);
	Buffer		buffer;
	Page		page;
	HeapTupleHeader row;
	Form_pg_sequence_data sequence;

	if (rel == NULL || rel->rd_rel->relkind != RELKIND_SEQUENCE)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("sequence %s was dropped meanwhile", pair->target));
	pair->target = rehome_relation_name(pair->relid);
	buffer = ReadBuffer(rel, 0);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	/* the one row there is */
	row = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	sequence = (Form_pg_sequence_data) ((char *) row + row->t_hoff);
	pair->target_last = sequence->last_value;
	pair->target_called = sequence->is_called;
	UnlockReleaseBuffer(buffer);
	relation_close(rel, NoLock);
}

/*
 * pairs finds the sequences of all maps and where they stand.
 */
static List *
pairs(RehomeConn *conn, List *maps)
{
	static SPIPlanPtr plan = NULL;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		RehomeRemoteTable *table = rehome_remote_table(map->source);
		RehomeRows *here = rehome_spi_kept(&plan, COLUMN_SEQUENCES, "t",
										   rehome_relation_name(map->target));
		RehomeRows *there;
		RehomeRows *sources;

		if (here->n == 0)
			continue;
		there = rehome_conn_query(conn, COLUMN_SEQUENCES, "t", rehome_remote_relation(table));
		sources = rehome_value_sources(map);
		for (int i = 0; i < here->n; i++)
		{
			const char *from = rehome_value_source(sources, here->value[i][0]);

			for (int j = 0; j < there->n; j++)
			{
				Pair	   *pair;

				if (!is_from(table, from, there->value[j][0]))
					continue;
				pair = palloc0(sizeof(Pair));
				pair->target = here->value[i][1];
				pair->increment = rehome_int64(here->value[i][2]);
				pair->target_cache = rehome_int64(here->value[i][4]);
				pair->source_cache = rehome_int64(there->value[j][4]);
				pair->source = there->value[j][1];
				pair->relid = atooid(here->value[i][3]);
				read_target(pair, AccessShareLock);
				read_position(rehome_conn_exec(conn, psprintf("SELECT last_value, is_called FROM %s", pair->source)),
							  &pair->source_last, &pair->source_called);
				result = lappend(result, pair);
			}
		}
	}
	return result;
}

/*
 * ahead tells whether the first position is beyond the second.
 */
static bool
ahead(int64 increment, int64 last, bool called, int64 other_last, bool other_called)
{
	if (last != other_last)
		return increment > 0 ? last > other_last : last < other_last;
	return called && !other_called;
}

static bool
source_ahead(Pair *pair)
{
	return ahead(pair->increment, pair->source_last, pair->source_called, pair->target_last, pair->target_called);
}

static void
read_locked(void *arg)
{
	read_target(arg, ShareRowExclusiveLock);
}

/*
 * lock_target keeps others from taking numbers, and reads where the sequence
 * stands.  Who has taken one in a transaction that is still open holds it up, and
 * is waited for no longer than rehome.lock_timeout: writers of the source wait, too.
 */
static void
lock_target(Pair *pair)
{
	int			level = NewGUCNestLevel();
	ErrorData  *error;

	rehome_limit_lock_waits(rehome_lock_timeout);
	error = rehome_attempt(read_locked, pair);
	AtEOXact_GUC(true, level);
	if (error == NULL)
		return;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	ereport(ERROR,
			errcode(ERRCODE_REHOME_LOCK_TIMEOUT),
			errmsg("could not lock sequence %s within %d ms", pair->target, rehome_lock_timeout),
			errdetail_internal("%s", rehome_local_blockers(list_make1(psprintf("%u", pair->relid)), ShareRowExclusiveLock)),
			errhint("Nothing has changed. Try again when that transaction has ended, or raise rehome.lock_timeout."));
}

/*
 * recall returns the statement that makes all sessions forget the values that they
 * have taken from a sequence in advance: it stays where it is, in a new file.
 */
static char *
recall(const char *sequence, int64 cache)
{
	return psprintf("ALTER SEQUENCE %s CACHE " INT64_FORMAT, sequence, cache);
}

/*
 * rehome_sequences_to_target carries what is ahead at the source, so that
 * ROLLBACK takes it back.  Where a session takes several values at once, what some
 * have taken here while writes were refused may be in use at the source since.
 */
void
rehome_sequences_to_target(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	RehomeAs	as;
	ListCell   *lc;

	foreach(lc, pairs(conn, maps))
	{
		Pair	   *pair = lfirst(lc);

		if (!source_ahead(pair) && pair->target_cache == 1)
			continue;
		lock_target(pair);
		rehome_become(&as, slice->migration->owner);
		if (source_ahead(pair))
		{
			rehome_spi(psprintf("ALTER SEQUENCE %s RESTART", pair->target), "");
			rehome_spi("SELECT setval($1::oid, $2, $3)", "olb", pair->relid,
					   pair->source_last, pair->source_called);
		}
		else if (pair->target_cache > 1)
			rehome_spi(recall(pair->target, pair->target_cache), "");
		rehome_become_self(&as);
	}
}

/*
 * within_bounds returns the position a source sequence can be set to, and
 * raises when our role may not set it: this is the last moment at which
 * nothing has changed.
 */
static int64
within_bounds(RehomeConn *conn, Pair *pair)
{
	RehomeRows *rows = rehome_conn_query(conn, "SELECT seqmin, seqmax, has_sequence_privilege(seqrelid, 'UPDATE'), quote_ident(current_user)"
										 " FROM pg_sequence WHERE seqrelid = $1::regclass", "t", pair->source);
	int64		last = Min(Max(pair->target_last, rehome_int64(rows->value[0][0])),
						   rehome_int64(rows->value[0][1]));

	if (!rehome_bool(rows->value[0][2]))
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("sequence %s of the source cannot be set", pair->source),
				errhint("At the source: GRANT SELECT, UPDATE ON SEQUENCE %s TO %s;", pair->source,
						rows->value[0][3]));
	if (last != pair->target_last)
		ereport(WARNING,
				errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				errmsg("sequence %s of the source cannot reach " INT64_FORMAT ": it is left at its bound, " INT64_FORMAT,
					   pair->source, pair->target_last, last),
				errhint("ALTER SEQUENCE %s MAXVALUE ...", pair->source));
	return last;
}

/*
 * recall_there has sessions of the source forget what they have taken from a
 * sequence in advance, if our role may: the target may have used it since.  Who
 * has taken a number in a transaction that is still open keeps us from that.  So a
 * rollback gives up; but one that only has to be finished, when neither side takes
 * writes, does without.
 */
static void
recall_there(RehomeConn *conn, Pair *pair, bool finishing)
{
	char	   *sql = psprintf("SET LOCAL lock_timeout = %d; %s; SET LOCAL lock_timeout = 0", rehome_lock_timeout,
							   recall(pair->source, pair->source_cache));
	RehomeRemoteError error;

	if (pair->source_cache == 1 ||
		!rehome_bool(rehome_conn_value(conn, "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = $1::regclass", "t", pair->source)))
		return;
	if (!finishing)
	{
		rehome_conn_exec(conn, sql);
		return;
	}
	rehome_conn_exec(conn, "SAVEPOINT recall");
	if (rehome_conn_try(conn, sql, &error) != NULL)
		return;
	rehome_conn_exec(conn, "ROLLBACK TO recall");
	ereport(WARNING,
			errmsg("sessions of the source may give out numbers of sequence %s that were given out here", pair->source),
			errdetail("They have taken them in advance, and cannot be made to forget them: %s", error.message),
			errhint("End these sessions, or have them DISCARD SEQUENCES."));
}

/*
 * rehome_sequences_to_source returns the SQL that carries what is ahead here,
 * and still is when it runs.
 */
char *
rehome_sequences_to_source(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT 1;");
	foreach(lc, pairs(conn, maps))
	{
		Pair	   *pair = lfirst(lc);

		int64		last;

		recall_there(conn, pair, slice->state == REHOME_ROLLING_BACK);
		if (!ahead(pair->increment, pair->target_last, pair->target_called,
				   pair->source_last, pair->source_called))
			continue;
		last = within_bounds(conn, pair);
		appendStringInfo(&sql, "SELECT setval(%s::regclass, " INT64_FORMAT ", %s) FROM %s"
						 " WHERE last_value %s " INT64_FORMAT " OR (last_value = " INT64_FORMAT " AND NOT is_called);",
						 quote_literal_cstr(pair->source), last, pair->target_called ? "true" : "false",
						 pair->source, pair->increment > 0 ? "<" : ">", last, last);
	}
	return sql.data;
}
