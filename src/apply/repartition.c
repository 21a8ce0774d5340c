/*-------------------------------------------------------------------------
 *
 * repartition.c
 *	  Partitions of a source table that come and go.
 *
 * No trigger tells of either.  One that comes has all its keys among those that
 * have changed.  One that goes takes its rows along, which are those within its
 * bound; so bounds are on record with the partitions of the position.  What the
 * target has within the bound is compared with what the source has there now,
 * as a rule nothing: with a partition a day, that is the day and not the table.
 *
 * A bound counts here if the column is brought as it is, with the same type and
 * modifier, and the type compares alike everywhere, as those with a collation
 * do not.  It may well take in more than the partition had, as everything within
 * it is compared: of several columns the first one is enough, and a partition
 * whose parent is gone as well adds nothing.  Where a bound does not count (by
 * hash, by an expression, of a default partition), or rows that the source had
 * within it may be in quarantine instead, the table is read as a whole.
 *
 * Bounds are what a source says: of their SQL nothing is run, only constants
 * are taken from it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/repartition.h"
#include "mapping/mapping.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

/*
 * was_copied tells whether a partition, given by its qualified name, was read by
 * the copy: what happened to it before it had all its triggers is not known.
 */
static bool
was_copied(RehomeTableMap *map, const char *name)
{
	List	   *parts;

	if (!SplitIdentifierString(pstrdup(name), '.', &parts) || list_length(parts) != 2)
		elog(ERROR, "\"%s\" is no qualified name", name);
	return rehome_spi("SELECT FROM rehome.chunk WHERE table_map_id = $1 AND part_schema = $2::name AND part_table = $3::name", "itt",
					  map->id, linitial(parts), lsecond(parts))->n > 0;
}

/*
 * add_new adds the partitions that the table has beyond those on record; false
 * when that is not enough.
 */
static bool
add_new(RehomeRepartition *moved, RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	char	   *names;
	ListCell   *lc;

	names = rehome_conn_value(conn, "SELECT rehome_source.added_partitions($1, $2::int, $3::regclass, $4)", "titt",
							  slice->migration->token, map->id, rehome_remote_relation(table), map->source_parts);
	if (names == NULL)
		return false;
	foreach(lc, rehome_name_list(names))
	{
		StringInfoData from;

		if (was_copied(map, lfirst(lc)))
			return false;
		initStringInfo(&from);
		rehome_remote_from(&from, table, lfirst(lc), true);
		moved->rows = lappend(moved->rows, from.data);
	}
	return true;
}

/*
 * parse_bound returns the bound of a partition, as pg_get_expr() writes it; NULL
 * if it is none.
 */
static PartitionBoundSpec *
parse_bound(const char *bound)
{
	List	   *parsed = raw_parser(psprintf("ALTER TABLE t ATTACH PARTITION p %s", bound), RAW_PARSE_DEFAULT);
	AlterTableStmt *alter;
	AlterTableCmd *cmd;

	if (list_length(parsed) != 1)
		return NULL;
	alter = (AlterTableStmt *) linitial_node(RawStmt, parsed)->stmt;
	if (!IsA(alter, AlterTableStmt) || list_length(alter->cmds) != 1)
		return NULL;
	cmd = linitial_node(AlterTableCmd, alter->cmds);
	return cmd->subtype == AT_AttachPartition ? castNode(PartitionCmd, cmd->def)->bound : NULL;
}

/*
 * constant returns a constant as SQL, NULL for one that is null; false if it is
 * something else.
 */
static bool
constant(Node *node, char **sql)
{
	A_Const    *value = (A_Const *) node;

	*sql = NULL;
	if (!IsA(node, A_Const))
		return false;
	if (value->isnull)
		return true;
	switch (nodeTag(&value->val))
	{
		case T_Integer:
			*sql = psprintf("'%d'", intVal(&value->val));
			return true;
		case T_Float:
			*sql = quote_literal_cstr(castNode(Float, &value->val)->fval);
			return true;
		case T_Boolean:
			*sql = boolVal(&value->val) ? "'t'" : "'f'";
			return true;
		case T_String:
			*sql = quote_literal_cstr(strVal(&value->val));
			return true;
		default:
			return false;
	}
}

/*
 * append_list appends the condition that a column has one of a list's values.
 */
static bool
append_list(StringInfo sql, const char *column, List *values)
{
	ListCell   *lc;

	foreach(lc, values)
	{
		char	   *value;

		if (!constant(lfirst(lc), &value))
			return false;
		if (foreach_current_index(lc) > 0)
			appendStringInfoString(sql, " OR ");
		if (value == NULL)
			appendStringInfo(sql, "%s IS NULL", column);
		else
			appendStringInfo(sql, "%s OPERATOR(pg_catalog.=) %s", column, value);
	}
	return values != NIL;
}

/*
 * append_range appends the condition that a column is within a range, which may
 * be one of several columns: it is the first of them.
 */
static bool
append_range(StringInfo sql, const char *column, List *lower, List *upper)
{
	int			start = sql->len;
	char	   *value;

	if (lower == NIL || upper == NIL)
		return false;
	/* MINVALUE and MAXVALUE look like columns */
	if (constant(linitial(lower), &value) && value != NULL)
		appendStringInfo(sql, "%s OPERATOR(pg_catalog.>=) %s", column, value);
	else if (!IsA(linitial(lower), ColumnRef))
		return false;
	if (constant(linitial(upper), &value) && value != NULL)
		appendStringInfo(sql, "%s%s OPERATOR(pg_catalog.%s) %s", sql->len > start ? " AND " : "", column,
						 list_length(upper) > 1 ? "<=" : "<", value);
	else if (!IsA(linitial(upper), ColumnRef))
		return false;
	return sql->len > start;
}

/*
 * append_bound appends the condition that a column is within a partition's
 * bound, to others if there are any; false when the bound does not say that.
 */
static bool
append_bound(StringInfo sql, const char *column, PartitionBoundSpec *bound)
{
	bool		good = false;

	if (bound == NULL || bound->is_default)
		return false;
	appendStringInfo(sql, "%s(", sql->len > 0 ? " OR " : "");
	if (bound->strategy == PARTITION_STRATEGY_LIST)
		good = append_list(sql, column, bound->listdatums);
	else if (bound->strategy == PARTITION_STRATEGY_RANGE)
		good = append_range(sql, column, bound->lowerdatums, bound->upperdatums);
	appendStringInfoChar(sql, ')');
	return good;
}

/*
 * same_column finds the column of a map whose values are those that the source's
 * column has; NULL when there is none.
 */
static RehomeMappedColumn *
same_column(RehomeMapping *mapping, const char *name, Oid type, int32 typmod)
{
	RehomeRemoteTable *table = rehome_remote_table(mapping->map->source);

	for (int c = 0; c < mapping->ncolumns; c++)
	{
		RehomeMappedColumn *column = &mapping->columns[c];
		Form_pg_attribute source;

		if (column->plain == 0 || column->on_error == 'n' || column->on_error == 'd' ||
			strcmp(table->remote[column->plain - 1], name) != 0)
			continue;
		source = TupleDescAttr(mapping->source_desc, column->plain - 1);
		if (column->type == type && (column->typmod == -1 || column->typmod == typmod) &&
			source->atttypid == type && (source->atttypmod == -1 || source->atttypmod == typmod))
			return column;
	}
	return NULL;
}

/*
 * add_gone adds what is within the bounds of the partitions on record that the
 * table does not have any more; false when that is not enough.
 */
static bool
add_gone(RehomeRepartition *moved, RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	RehomeMapping *mapping;
	RehomeRows *gone;
	StringInfoData here;
	StringInfoData there;
	StringInfoData from;
	char	   *now;

	now = rehome_conn_value(conn, "SELECT rehome_source.partitions($1::regclass)", "t", rehome_remote_relation(table));
	gone = rehome_spi("WITH gone AS (SELECT part FROM unnest(string_to_array($1, ',')) AS u(part)"
					  " WHERE part <> 'none' AND part <> ALL (string_to_array($2, ',')))"
					  " SELECT b.name, b.type, b.typmod, b.bound FROM gone LEFT JOIN jsonb_to_recordset($3::jsonb)"
					  " AS b(part text, parent text, name text, type oid, typmod int, bound text) USING (part)"
					  " WHERE NOT EXISTS (SELECT FROM gone AS g WHERE g.part = b.parent)", "ttt",
					  map->source_parts, now, map->source_bounds);
	if (gone->n == 0)
		return true;
	if (rehome_spi("SELECT FROM rehome.quarantine WHERE migration = $1::name AND slice = $2::name AND target = $3"
				   " AND source_key IS NOT NULL LIMIT 1", "tto", slice->migration->name, slice->name, map->target)->n > 0)
		return false;

	mapping = rehome_mapping_compile(map, slice->migration->owner);
	initStringInfo(&here);
	initStringInfo(&there);
	for (int i = 0; i < gone->n; i++)
	{
		char	  **v = gone->value[i];
		PartitionBoundSpec *bound;
		RehomeMappedColumn *column;

		if (v[0] == NULL || v[3] == NULL)
			return false;
		column = same_column(mapping, v[0], (Oid) rehome_int64(v[1]), rehome_int(v[2]));
		if (column == NULL)
			return false;
		bound = parse_bound(v[3]);
		if (!append_bound(&here, psprintf("t.%s", quote_identifier(column->name)), bound) ||
			!append_bound(&there, psprintf("source.%s", quote_identifier(table->local[column->plain - 1])), bound))
			return false;
	}
	moved->within = here.data;
	initStringInfo(&from);
	rehome_remote_from(&from, table, NULL, false);
	appendStringInfo(&from, " WHERE %s", there.data);
	moved->rows = lappend(moved->rows, from.data);
	return true;
}

/*
 * rehome_repartition looks for what has come and gone of a table whose partitions
 * are others than those on record, in the snapshot of the transaction that is
 * open on conn.  NULL when the table has to be read as a whole.
 */
RehomeRepartition *
rehome_repartition(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	RehomeRepartition *moved = palloc0(sizeof(RehomeRepartition));

	if (!add_new(moved, conn, slice, map) || !add_gone(moved, conn, slice, map))
		return NULL;
	return moved;
}
