/*-------------------------------------------------------------------------
 *
 * scope.c
 *	  Which rows a verification compares, when it is not all of them.
 *
 * A row belongs to the scope by its key alone, so that both sides choose the
 * same rows without knowing of each other: an expression over the key columns
 * that each side evaluates with its own names.  What could choose differently
 * there is refused: a key that is computed, functions that are not immutable,
 * the order of a collation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/attmap.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "errors.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "verify/verify.h"

bool
rehome_scope_is_whole(const RehomeScope *scope)
{
	return scope->sample == 0 && scope->filter == NULL;
}

/*
 * is_equality tells whether a node is a comparison for (in)equality, which
 * does not depend on a deterministic collation.
 */
static bool
is_equality(Node *node)
{
	Oid			operator = InvalidOid;
	char	   *name;

	if (IsA(node, OpExpr) || IsA(node, DistinctExpr) || IsA(node, NullIfExpr))
		operator = ((OpExpr *) node)->opno;
	else if (IsA(node, ScalarArrayOpExpr))
		operator = ((ScalarArrayOpExpr *) node)->opno;
	name = OidIsValid(operator) ? get_opname(operator) : NULL;
	return name != NULL && (strcmp(name, "=") == 0 || strcmp(name, "<>") == 0);
}

/*
 * needs_collation tells whether an expression looks at the order of text, or
 * at upper and lower case, by a collation that may differ on the two sides.
 */
static bool
needs_collation(Node *node, void *context)
{
	Oid			collation;

	if (node == NULL)
		return false;
	collation = exprInputCollation(node);
	if (OidIsValid(collation) && collation != C_COLLATION_OID && !is_equality(node))
		return true;
	return expression_tree_walker(node, needs_collation, context);
}

/*
 * source_attnums maps the attnums of the target's key columns to those of the
 * source, and raises when the filter reads other columns, or a computed one.
 */
static AttrMap *
source_attnums(const RehomeScope *scope, Node *expr, Relation target, RehomeMapping *mapping)
{
	AttrMap    *attnums = make_attrmap(RelationGetDescr(target)->natts);
	ListCell   *lc;

	for (int k = 0; k < mapping->nkey; k++)
		attnums->attnums[mapping->key[k]->attnum - 1] = mapping->key[k]->plain;
	foreach(lc, rehome_expression_columns(expr, target))
		if (attnums->attnums[get_attnum(RelationGetRelid(target), lfirst(lc)) - 1] == 0)
			ereport(ERROR,
					errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					errmsg("filter \"%s\" reads column \"%s\", which is not in the key as the source has it",
						   scope->filter, (char *) lfirst(lc)),
					errdetail("Both sides have to choose the same rows, whatever else differs in them."));
	return attnums;
}

/*
 * rehome_scope_filter returns the scope's filter as each side evaluates it:
 * over the foreign table's columns, and over the target's.
 */
void
rehome_scope_filter(const RehomeScope *scope, Oid owner, RehomeMapping *mapping,
					char **source, char **target)
{
	Relation	from = table_open(mapping->map->source, AccessShareLock);
	Relation	to = table_open(mapping->map->target, AccessShareLock);
	int			level = NewGUCNestLevel();
	RehomeAs	as;
	Node	   *expr;
	bool		whole_row;

	rehome_become(&as, owner);
	(void) set_config_option("search_path", scope->call->search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	expr = rehome_expression_parse(scope->filter, to, "target");
	rehome_become_self(&as);
	AtEOXact_GUC(true, level);
	if (exprType(expr) != BOOLOID)
		ereport(ERROR,
				errcode(ERRCODE_DATATYPE_MISMATCH),
				errmsg("filter \"%s\" is of type %s, not boolean", scope->filter,
					   format_type_be(exprType(expr))));
	if (contain_mutable_functions(expr))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				errmsg("filter \"%s\" is not immutable", scope->filter),
				errhint("Use immutable functions and constants only."));
	if (needs_collation(expr, NULL))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("filter \"%s\" depends on a collation", scope->filter),
				errdetail("The two sides may order text differently, and would choose other rows."),
				errhint("Add COLLATE \"C\"."));
	*target = rehome_expression_deparse(expr, to, "target");
	expr = map_variable_attnos(expr, 1, 0, source_attnums(scope, expr, to, mapping), InvalidOid, &whole_row);
	*source = rehome_expression_deparse(expr, from, "source");
	table_close(to, AccessShareLock);
	table_close(from, AccessShareLock);
}
