/*-------------------------------------------------------------------------
 *
 * deferred.c
 *	  Unique and exclusion constraints that PostgreSQL checks later.
 *
 * A deferrable constraint lets any row in, and leaves the check to a trigger of
 * its own, which does not fire in replica role.  So we check: after rows have
 * been applied, these against all; when a table is loaded, each against each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "apply/apply.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/rel.h"

/*
 * The deferrable constraints of table $1 that stand on an index: name, kind,
 * and as SQL its elements, under the names rehome_1 and so on; the condition
 * that rows t and o are in conflict; which rows it is about; a list of the
 * elements; and of t's values and o's.
 */
static const char *const constraints =
"SELECT k.conname, k.contype, e.elements, e.conflict, coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), e.list, e.values, e.others"
" FROM pg_index i JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x'),"
" LATERAL (SELECT string_agg(format('(%s)%s AS rehome_%s', name, ' COLLATE ' || coll, n), ', ' ORDER BY n) AS elements,"
"   string_agg(format(CASE WHEN to_jsonb(i)->>'indnullsnotdistinct' = 'true'"
"    THEN '(o.rehome_%1$s %2$s t.rehome_%1$s OR (o.rehome_%1$s IS NULL AND t.rehome_%1$s IS NULL))'"
"    ELSE 'o.rehome_%1$s %2$s t.rehome_%1$s' END, n, operator), ' AND ' ORDER BY n) AS conflict,"
"   string_agg(name, ', ' ORDER BY n) AS list,"
"   string_agg(format('coalesce(t.rehome_%s::text, ''null'')', n), ', ' ORDER BY n) AS values,"
"   string_agg(format('coalesce(o.rehome_%s::text, ''null'')', n), ', ' ORDER BY n) AS others"
"  FROM (SELECT n, pg_get_indexdef(i.indexrelid, n, false) AS name, nullif(i.indcollation[n - 1], 0)::regcollation AS coll,"
"    (SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname) FROM pg_operator o JOIN pg_namespace s ON s.oid = o.oprnamespace"
"      WHERE o.oid = coalesce(k.conexclop[n], (SELECT a.amopopr FROM pg_opclass c JOIN pg_amop a ON a.amopfamily = c.opcfamily"
"       AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype AND a.amopstrategy = 3 WHERE c.oid = i.indclass[n - 1]))) AS operator"
"   FROM generate_series(1, i.indnkeyatts) AS n) AS element) AS e"
" WHERE i.indrelid = $1 AND NOT i.indimmediate ORDER BY k.conname";

/* The columns of constraints. */
enum
{
	NAME, TYPE, ELEMENTS, CONFLICT, PREDICATE, LIST, VALUES, OTHERS
};

static bool
has_deferred(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		found = found || (rel->rd_rel->relkind == RELKIND_RELATION && !index->rd_index->indimmediate);
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * rehome_has_deferred tells whether a constraint of the target, or of a
 * partition of it, is checked later.
 */
bool
rehome_has_deferred(Oid target)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(target, AccessShareLock, NULL))
		if (has_deferred(lfirst_oid(lc)))
			return true;
	return false;
}

/*
 * check raises as the constraint (a row of constraints) would if two rows of
 * the table are in conflict, one of them one of those on hand; without
 * mapping, any two.
 */
static void
check(Oid relid, char **constraint, RehomeMapping *mapping)
{
	char	   *table = rehome_relation_name(relid);
	StringInfoData sql;
	RehomeRows *rows;
	Relation	rel;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT concat_ws(', ', %s), concat_ws(', ', %s) FROM ", constraint[VALUES], constraint[OTHERS]);
	if (mapping != NULL)
		appendStringInfoString(&sql, "rehome_rows AS n JOIN ");
	appendStringInfo(&sql, "(SELECT ctid AS rehome_ctid, %s%s%s FROM ONLY %s WHERE %s) AS t", constraint[ELEMENTS],
					 mapping ? ", " : "", mapping ? rehome_quote_list(mapping->map->key, "") : "",
					 table, constraint[PREDICATE]);
	if (mapping != NULL)
		appendStringInfo(&sql, " ON %s", rehome_key_condition(mapping, "t", "n"));
	appendStringInfo(&sql, " JOIN (SELECT ctid AS rehome_ctid, %s FROM ONLY %s WHERE %s) AS o ON %s"
					 " WHERE o.rehome_ctid <> t.rehome_ctid LIMIT 1",
					 constraint[ELEMENTS], table, constraint[PREDICATE], constraint[CONFLICT]);
	rows = rehome_spi(sql.data, "");
	if (rows->n == 0)
		return;
	rel = table_open(relid, NoLock);
	if (constraint[TYPE][0] == CONSTRAINT_EXCLUSION)
		ereport(ERROR,
				errcode(ERRCODE_EXCLUSION_VIOLATION),
				errmsg("conflicting key value violates exclusion constraint \"%s\"", constraint[NAME]),
				errdetail("Key (%s)=(%s) conflicts with existing key (%s)=(%s).", constraint[LIST], rows->value[0][0],
						  constraint[LIST], rows->value[0][1]),
				errtableconstraint(rel, constraint[NAME]));
	ereport(ERROR,
			errcode(ERRCODE_UNIQUE_VIOLATION),
			errmsg("duplicate key value violates unique constraint \"%s\"", constraint[NAME]),
			errdetail("Key (%s)=(%s) already exists.", constraint[LIST], rows->value[0][0]),
			errtableconstraint(rel, constraint[NAME]));
}

/*
 * rehome_check_deferred checks the rows on hand, registered as rehome_rows, by
 * the target's deferrable constraints; without mapping, all rows.
 */
void
rehome_check_deferred(Oid target, RehomeMapping *mapping)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(target, AccessShareLock, NULL))
	{
		RehomeRows *rows;

		if (!has_deferred(lfirst_oid(lc)))
			continue;
		rows = rehome_spi(constraints, "o", lfirst_oid(lc));
		for (int i = 0; i < rows->n; i++)
			check(lfirst_oid(lc), rows->value[i], mapping);
	}
}
