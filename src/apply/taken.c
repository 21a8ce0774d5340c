/*-------------------------------------------------------------------------
 *
 * taken.c
 *	  Keys that one side takes for one, and that are two rows of the other.
 *
 * To a citext, or by a collation that is not deterministic, 'A' and 'a' are one
 * key; to a text they are two.  Where only the receiving side is the looser one,
 * a row that comes as 'a' finds that side's 'A', which is either what the row was
 * before its key was spelled anew, or another row, which it must not take the
 * place of.
 *
 * The keys that are gone tell: a key that is spelled anew is gone by its old
 * spelling, and that one is taken away by just this spelling before any row
 * comes.  Whatever is found by another spelling then belongs to a row that the
 * other side still has.  Where the source compares as loosely, and has a row with
 * that key, it is the same row, which stays where it is and is spelled anew: it
 * keeps what it has at the target alone, and is in no archive.
 *
 * Towards the source the row stays where it is and is spelled anew there, so
 * that it keeps what it has at the source alone.  There the same is asked of
 * what is staged: a row of the source that is spelled differently must be among
 * the keys that are gone.  Where a trigger of the source may spell keys its own
 * way, nothing is asked, and a row is the one whose key is equal.
 *
 * Rows that the target keeps although they are gone at the source cannot be
 * told from others where nothing marks them (on_delete => 'ignore'): there, a
 * row takes the place of what has its key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "apply/merge.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * looser lists the columns of the target's key that may take two keys of the
 * source for one; NIL when that is not looked at.
 */
static List *
looser(RehomeMapping *mapping)
{
	List	   *names = NIL;

	if (mapping->map->on_delete == 'i')
		return NIL;
	for (int k = -1; (k = bms_next_member(mapping->looser, k)) >= 0;)
		names = lappend(names, mapping->key[k]->name);
	return names;
}

/*
 * rehome_may_be_taken tells whether the target may take two keys of the source
 * for one.
 */
bool
rehome_may_be_taken(RehomeMapping *mapping)
{
	return looser(mapping) != NIL;
}

/*
 * rehome_same_row returns the condition that two rows of the target's columns
 * are the same row of the source: that their keys are equal, and where that may
 * not be enough, spelled the same.
 */
char *
rehome_same_row(RehomeMapping *mapping, const char *a, const char *b)
{
	List	   *names = looser(mapping);
	char	   *equal = rehome_key_condition(mapping, a, b);

	if (names == NIL)
		return equal;
	return psprintf("%s AND ROW(%s)::record OPERATOR(pg_catalog.*=) ROW(%s)::record", equal,
					rehome_quote_list(names, psprintf("%s.", a)), rehome_quote_list(names, psprintf("%s.", b)));
}

/*
 * rehome_respelled_begin lets SQL see the keys that are gone as they are spelled,
 * if there are rows of such keys that may have others now.
 */
void
rehome_respelled_begin(RehomeMapping *mapping)
{
	if (mapping->nrespelled > 0)
		rehome_rows_register(REHOME_RESPELLED, mapping->key_desc, mapping->respelled, mapping->nrespelled);
}

void
rehome_respelled_end(RehomeMapping *mapping)
{
	if (mapping->nrespelled > 0)
		rehome_rows_unregister(REHOME_RESPELLED);
}

/*
 * rehome_takes_over returns the condition that row b of the source is what row a
 * of the target is, or was before its key was spelled anew; their keys are equal.
 * Between rehome_respelled_begin() and _end().
 */
char *
rehome_takes_over(RehomeMapping *mapping, const char *a, const char *b)
{
	char	   *same = rehome_same_row(mapping, a, b);

	if (mapping->nrespelled == 0)
		return same;
	return psprintf("(%s OR EXISTS (SELECT FROM " REHOME_RESPELLED " AS g WHERE %s))", same,
					rehome_same_row(mapping, a, "g"));
}

/*
 * rehome_check_taken raises if one of the rows on hand (registered as
 * rehome_rows) has a key that the target takes for that of another row.
 */
void
rehome_check_taken(RehomeMapping *mapping)
{
	RehomeTableMap *map = mapping->map;
	List	   *names = looser(mapping);
	RehomeRows *rows;

	if (names == NIL)
		return;
	/* a row that is marked as gone is one of the source no more */
	rehome_respelled_begin(mapping);
	rows = rehome_spi(psprintf("SELECT concat_ws(', ', %s), concat_ws(', ', %s) FROM %s AS t JOIN rehome_rows AS n ON %s"
							   " WHERE ROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record%s LIMIT 1",
							   rehome_quote_list(map->key, "t."), rehome_quote_list(map->key, "n."),
							   rehome_live_rows(mapping), rehome_key_condition(mapping, "t", "n"),
							   rehome_quote_list(names, "t."), rehome_quote_list(names, "n."),
							   /* a join: they may be as many as the rows */
							   mapping->nrespelled == 0 ? "" :
							   psprintf(" AND NOT EXISTS (SELECT FROM " REHOME_RESPELLED " AS g WHERE %s)",
										rehome_same_row(mapping, "t", "g"))), "");
	rehome_respelled_end(mapping);
	if (rows->n == 0)
		return;
	ereport(ERROR,
			errcode(ERRCODE_UNIQUE_VIOLATION),
			errmsg("two rows of the source have keys that are one to table \"%s\"", get_rel_name(map->target)),
			errdetail("Key (%s)=(%s) is there, and key (%s)=(%s) comes.",
					  rehome_quote_list(map->key, ""), rows->value[0][0],
					  rehome_quote_list(map->key, ""), rows->value[0][1]),
			errhint("Change one of them at the source, or give the target a key that compares as the source's does."
					" If the source has no row with the first, somebody else has spelled it so here: delete it."),
			err_generic_string(PG_DIAG_SCHEMA_NAME, get_namespace_name(get_rel_namespace(map->target))),
			err_generic_string(PG_DIAG_TABLE_NAME, get_rel_name(map->target)),
			err_generic_string(PG_DIAG_COLUMN_NAME, linitial(names)));
}

/*
 * spelled_apart returns the condition that the looser columns of the key of rows
 * a and b at the source are not all spelled the same; there are some.  in_change:
 * b is a row of its change table.
 */
static char *
spelled_apart(RehomeInverse *inverse, const char *a, const char *b, bool in_change)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, inverse->mapping->map->source_key)
	{
		const char *column = rehome_remote_column(inverse->table, lfirst(lc));
		const char *name = quote_identifier(column);

		if (rehome_name_listed(inverse->looser, column))
			appendStringInfo(&sql, "%s%s", sql.len ? " AND " : "NOT (",
							 rehome_spelled_alike(psprintf("%s.%s", a, name), in_change ?
												  psprintf("%s.key%d", b, foreach_current_index(lc) + 1) : psprintf("%s.%s", b, name)));
	}
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

char *
rehome_spelled_apart(RehomeInverse *inverse, const char *a, const char *b)
{
	return spelled_apart(inverse, a, b, false);
}

/*
 * rehome_spelled_apart_key returns the same of row a and key, a row of the change
 * table.
 */
char *
rehome_spelled_apart_key(RehomeInverse *inverse, const char *a, const char *key)
{
	return spelled_apart(inverse, a, key, true);
}

/*
 * rehome_taken_back returns the query for the keys of staged rows that the source
 * takes for those of others: staged too, or there and not gone.  NULL where it
 * tells apart whatever the target does.
 */
char *
rehome_taken_back(RehomeReturn *ret)
{
	RehomeInverse *inverse = ret->inverse;
	StringInfoData sql;
	char	   *keys;

	if (inverse->looser == NIL)
		return NULL;
	keys = rehome_inverse_columns(inverse, "s.", true);
	initStringInfo(&sql);
	/* joins each by itself: of an OR, the stage would be gone through for every row of it */
	appendStringInfo(&sql, "SELECT string_agg(t.k, ', ') FROM (SELECT ROW(%s)::text FROM %s s JOIN %s u ON %s"
					 " WHERE s.rehome_op = 'u' AND u.rehome_op = 'u' AND %s", keys, ret->stage, ret->stage,
					 rehome_inverse_key_condition(inverse, "u", "s"), rehome_spelled_apart(inverse, "u", "s"));
	if (!ret->everything)
		appendStringInfo(&sql, " UNION SELECT ROW(%s)::text FROM %s s JOIN %s r ON %s WHERE s.rehome_op = 'u' AND %s"
						 " AND NOT EXISTS (SELECT FROM %s d WHERE d.rehome_op = 'd' AND %s AND NOT %s)",
						 keys, ret->stage, ret->relation, ret->join, rehome_spelled_apart(inverse, "r", "s"), ret->stage,
						 rehome_inverse_key_condition(inverse, "r", "d"), rehome_spelled_apart(inverse, "r", "d"));
	appendStringInfoString(&sql, ") AS t(k)");
	return sql.data;
}
