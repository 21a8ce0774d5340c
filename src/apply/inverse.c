/*-------------------------------------------------------------------------
 *
 * inverse.c
 *	  How source columns are restored from a target row.
 *
 * A source column is carried back if some target column is a plain copy of
 * it, or if a rule states its inverse.  Others stay as they are at the
 * source, and take their default in rows that were inserted after cutover;
 * preflight names them before.  The key must be carried, and from the
 * target's key alone: that is all that is left of a deleted row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/inverse.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"

/*
 * reads_key_only tells whether an expression over the target reads its key
 * columns only.
 */
static bool
reads_key_only(RehomeMapping *mapping, Node *expr, Relation target)
{
	ListCell   *lc;

	foreach(lc, rehome_expression_columns(expr, target))
	{
		bool		in_key = false;

		for (int k = 0; k < mapping->nkey; k++)
			in_key = in_key || strcmp(mapping->key[k]->name, lfirst(lc)) == 0;
		if (!in_key)
			return false;
	}
	return true;
}

/*
 * restore finds out how a source column is restored.
 */
static void
restore(RehomeMapping *mapping, RehomeInverseColumn *column, AttrNumber attnum, Relation target)
{
	for (int c = 0; c < mapping->ncolumns && column->expression == NULL; c++)
	{
		RehomeMappedColumn *mapped = &mapping->columns[c];

		if (mapped->map->inverse != NULL &&
			strcmp(mapped->map->inverse_column, column->local) == 0)
		{
			column->expression = mapped->map->inverse;
			column->key_only = reads_key_only(mapping,
											  rehome_expression_parse(column->expression, target, "target"),
											  target);
		}
	}
	/* a copy, possibly to another type: its text is what the source reads back */
	for (int pass = 0; pass < 2 && column->expression == NULL; pass++)
		for (int c = 0; c < mapping->ncolumns; c++)
		{
			RehomeMappedColumn *mapped = &mapping->columns[c];

			if (mapped->map->kind == REHOME_COPY && (pass == 1 || mapped->key > 0) &&
				strcmp(mapped->expression, quote_identifier(column->local)) == 0)
			{
				column->expression = psprintf("target.%s", quote_identifier(mapped->name));
				column->key_only = mapped->key > 0;
				column->by_letter = rehome_is_by_letter(mapped->type, mapped->collation);
				break;
			}
		}
	column->carried = column->expression != NULL;
}

/*
 * rehome_inverse_compile works out the way back of a table map.
 */
RehomeInverse *
rehome_inverse_compile(RehomeTableMap *map, Oid owner)
{
	RehomeInverse *inverse = palloc0(sizeof(RehomeInverse));
	Relation	target = table_open(map->target, AccessShareLock);
	RehomeAs	as;

	rehome_become(&as, owner);
	inverse->mapping = rehome_mapping_compile(map, owner);
	inverse->table = rehome_remote_table(map->source);
	inverse->columns = palloc0(sizeof(RehomeInverseColumn) * inverse->table->natts);
	for (int i = 0; i < inverse->table->natts; i++)
	{
		RehomeInverseColumn *column = &inverse->columns[inverse->ncolumns];
		ListCell   *lc;

		if (inverse->table->local[i] == NULL)
			continue;
		column->local = inverse->table->local[i];
		column->remote = inverse->table->remote[i];
		foreach(lc, map->source_key)
			if (strcmp(lfirst(lc), column->local) == 0)
				column->key = foreach_current_index(lc) + 1;
		restore(inverse->mapping, column, i + 1, target);
		inverse->ncolumns++;
	}
	rehome_become_self(&as);
	table_close(target, AccessShareLock);
	return inverse;
}

/*
 * spells tells whether a trigger of the source may give a column a spelling of its
 * own when we write it: always is null where none looks like it, and else whether
 * one of those fires in replica role, too.
 */
static bool
spells(RehomeConn *conn, const char *always)
{
	return always != NULL && (rehome_bool(always) || !rehome_inverse_may_bypass(conn));
}

/*
 * rehome_inverse_describe asks the source what it lets us write, which
 * columns other unique indexes depend on, and which of the key it may compare
 * more loosely than the target.  Not where a trigger there spells it (lower()):
 * how a row is spelled does not tell which one it is then.
 */
void
rehome_inverse_describe(RehomeConn *conn, RehomeInverse *inverse)
{
	char	   *relation = quote_literal_cstr(rehome_remote_relation(inverse->table));
	RehomeRows *rows;

	rows = rehome_conn_query(conn,
							 psprintf("SELECT a.attname, coalesce(to_jsonb(a)->>'attgenerated', '') <> '', a.attidentity = 'a',"
									  " EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid"
									  "  AND (i.indisunique OR i.indisexclusion)"
									  "  AND (a.attnum = ANY (i.indkey) OR EXISTS (SELECT FROM pg_depend d"
									  "   WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid"
									  "   AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid"
									  "   AND d.refobjsubid = a.attnum))),"
									  " t.typnamespace <> 'pg_catalog'::regnamespace OR t.typname NOT IN ('text', 'varchar', 'bpchar', 'name', 'bytea', 'bool',"
									  "  'int2', 'int4', 'int8', 'oid', 'uuid', 'date', 'time', 'timestamp', 'timestamptz')"
									  "  OR EXISTS (SELECT FROM pg_collation l WHERE l.oid = a.attcollation AND to_jsonb(l)->>'collisdeterministic' = 'false'),"
									  " (SELECT bool_or(g.tgenabled IN ('A', 'R')) FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid"
									  "   WHERE g.tgrelid = a.attrelid AND NOT g.tgisinternal AND g.tgname NOT LIKE 'rehome\\_%%' AND g.tgenabled <> 'D'"
									  "   AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0"	/* BEFORE ... FOR EACH ROW; INSERT, UPDATE */
									  "   AND (strpos(lower(p.prosrc), lower(a.attname)) > 0 OR p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'plpgsql')))"
									  " FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = %s::regclass"
									  " AND a.attnum > 0 AND NOT a.attisdropped", relation), "");
	inverse->stays = NIL;
	inverse->looser = NIL;
	inverse->fragile = NIL;
	for (int r = 0; r < rows->n; r++)
	{
		bool		carried = false;

		for (int i = 0; i < inverse->ncolumns; i++)
		{
			RehomeInverseColumn *column = &inverse->columns[i];

			if (strcmp(column->remote, rows->value[r][0]) != 0)
				continue;
			if (rehome_bool(rows->value[r][1]))
				column->carried = false;
			column->identity_always = rehome_bool(rows->value[r][2]);
			carried = column->carried;
			if (column->key > 0 && column->by_letter && rehome_bool(rows->value[r][4]) && !spells(conn, rows->value[r][5]))
				inverse->looser = lappend(inverse->looser, column->remote);
			if (carried && column->key == 0 &&
				(column->identity_always || rehome_bool(rows->value[r][3])))
				inverse->fragile = lappend(inverse->fragile, column->remote);
		}
		if (!carried && !rehome_bool(rows->value[r][1]))
			inverse->stays = lappend(inverse->stays, rows->value[r][0]);
	}
}

/*
 * rehome_inverse_may_bypass tells whether our role may keep the source's
 * triggers and foreign keys from firing.
 */
bool
rehome_inverse_may_bypass(RehomeConn *conn)
{
	return rehome_bool(rehome_conn_value(conn, rehome_conn_version(conn) >= 150000 ?
										 "SELECT has_parameter_privilege('session_replication_role', 'SET')" :
										 "SELECT rolsuper FROM pg_roles WHERE rolname = current_user", ""));
}

static bool
wanted(RehomeInverseColumn *column, bool key)
{
	return column->carried && (!key || column->key > 0);
}

/*
 * rehome_inverse_columns lists the carried columns (or those of the key) as
 * the source calls them.
 */
char *
rehome_inverse_columns(RehomeInverse *inverse, const char *prefix, bool key)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < inverse->ncolumns; i++)
		if (wanted(&inverse->columns[i], key))
			appendStringInfo(&buf, "%s%s%s", buf.len ? ", " : "", prefix,
							 quote_identifier(inverse->columns[i].remote));
	return buf.data;
}

/*
 * rehome_inverse_expressions lists what restores them, in the same order.
 */
char *
rehome_inverse_expressions(RehomeInverse *inverse, bool key)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < inverse->ncolumns; i++)
		if (wanted(&inverse->columns[i], key))
			appendStringInfo(&buf, "%s%s", buf.len ? ", " : "", inverse->columns[i].expression);
	return buf.data;
}

/*
 * rehome_inverse_local_names lists all columns of a source row r under the
 * names filters use.
 */
char *
rehome_inverse_local_names(RehomeInverse *inverse)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < inverse->ncolumns; i++)
	{
		appendStringInfo(&buf, "%sr.%s", buf.len ? ", " : "",
						 quote_identifier(inverse->columns[i].remote));
		appendStringInfo(&buf, " AS %s", quote_identifier(inverse->columns[i].local));
	}
	return buf.data;
}

/*
 * key_condition returns "a.key = b.key AND ..." at the source; in_change: b is
 * a row of its change table.
 */
static char *
key_condition(RehomeInverse *inverse, const char *a, const char *b, bool in_change)
{
	RehomeTableMap *map = inverse->mapping->map;
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, map->source_key)
	{
		int			k = foreach_current_index(lc);
		const char *name = quote_identifier(rehome_remote_column(inverse->table, lfirst(lc)));

		appendStringInfo(&buf, "%s%s.%s %s %s.%s", k > 0 ? " AND " : "", a, name,
						 rehome_source_equal(map, k), b, in_change ? psprintf("key%d", k + 1) : name);
	}
	return buf.data;
}

/*
 * rehome_inverse_key_condition returns "a.key = b.key AND ..." at the source.
 */
char *
rehome_inverse_key_condition(RehomeInverse *inverse, const char *a, const char *b)
{
	return key_condition(inverse, a, b, false);
}

/*
 * rehome_inverse_key_is returns "a.column = key.key1 AND ..." at the source: key
 * is a row of its change table.
 */
char *
rehome_inverse_key_is(RehomeInverse *inverse, const char *a, const char *key)
{
	return key_condition(inverse, a, key, true);
}

/*
 * rehome_inverse_keys lists the key as the source calls it, in its order.
 */
char *
rehome_inverse_keys(RehomeInverse *inverse, const char *prefix)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, inverse->mapping->map->source_key)
		names = lappend(names, (char *) rehome_remote_column(inverse->table, lfirst(lc)));
	return rehome_quote_list(names, prefix);
}
