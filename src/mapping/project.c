/*-------------------------------------------------------------------------
 *
 * project.c
 *	  Running a compiled table map over source rows.
 *
 * Three shapes come out of the same expressions: the full target row (what
 * the fast load inserts, unmapped columns taking their defaults), the mapped
 * columns (what sync applies and verification compares), and the key alone
 * (what is left of a row that is gone).
 *
 * A rule with a validation is rule_valid(value, condition on value, text): the
 * value stands in it twice.  It is projected first, once, into a row of such
 * values, the inner row of the projection proper.
 *
 * The caller is the migration's owner while it projects, and resets
 * econtext's per-tuple memory between rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "mapping/mapping.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "rewrite/rewriteHandler.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

static List *
add_entry(List *targetlist, Expr *expr)
{
	return lappend(targetlist,
				   makeTargetEntry(expr, list_length(targetlist) + 1, NULL, false));
}

/* Replaces an expression by a reference to the inner row. */
typedef struct Replace
{
	Node	   *what;
	Var		   *by;
} Replace;

static Node *
replace(Node *node, void *arg)
{
	Replace    *job = arg;

	if (node == NULL)
		return NULL;
	if (equal(node, job->what))
		return (Node *) copyObject(job->by);
	return expression_tree_mutator(node, replace, job);
}

/*
 * validated returns the call of rule_valid that an expression is, perhaps
 * within casts to the column's type; NULL: it is none.
 */
static FuncExpr *
validated(Node *expr)
{
	while (expr != NULL)
	{
		if (IsA(expr, RelabelType))
			expr = (Node *) ((RelabelType *) expr)->arg;
		else if (IsA(expr, CoerceViaIO))
			expr = (Node *) ((CoerceViaIO *) expr)->arg;
		else if (IsA(expr, FuncExpr) && ((FuncExpr *) expr)->funcformat == COERCE_IMPLICIT_CAST)
			expr = linitial(((FuncExpr *) expr)->args);
		else
			break;
	}
	if (expr == NULL || !IsA(expr, FuncExpr) ||
		strcmp(get_func_name(((FuncExpr *) expr)->funcid), "rule_valid") != 0 ||
		get_func_namespace(((FuncExpr *) expr)->funcid) != get_namespace_oid("rehome", false))
		return NULL;
	return (FuncExpr *) expr;
}

/*
 * share moves values that a validation looks at to an inner row, which is
 * projected first; returns the target list that refers to it.
 */
static List *
share(RehomeProjector *p, RehomeMapping *mapping)
{
	List	   *inner = NIL;
	List	   *outer = NIL;
	TupleDesc	desc;
	ListCell   *lc;

	foreach(lc, p->targetlist)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		FuncExpr   *call = validated((Node *) entry->expr);
		Node	   *value = call ? linitial(call->args) : NULL;
		Replace		job = {value};

		if (value != NULL && !IsA(value, Var) && !IsA(value, Const))
		{
			inner = add_entry(inner, (Expr *) value);
			job.by = makeVar(INNER_VAR, list_length(inner), exprType(value), exprTypmod(value),
							 exprCollation(value), 0);
			entry = flatCopyTargetEntry(entry);
			entry->expr = (Expr *) replace((Node *) entry->expr, &job);
		}
		outer = lappend(outer, entry);
	}
	if (inner == NIL)
		return p->targetlist;
	desc = ExecTypeFromTL(inner);
	p->shared = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	p->share = ExecBuildProjectionInfo(inner, p->econtext, p->shared, NULL, mapping->source_desc);
	p->econtext->ecxt_innertuple = p->shared;
	return outer;
}

static RehomeProjector *
make_projector(RehomeMapping *mapping, List *targetlist, TupleDesc desc)
{
	RehomeProjector *p = palloc0(sizeof(RehomeProjector));

	p->estate = CreateExecutorState();
	p->econtext = GetPerTupleExprContext(p->estate);
	p->source = MakeSingleTupleTableSlot(mapping->source_desc, &TTSOpsVirtual);
	p->result = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	p->econtext->ecxt_scantuple = p->source;
	p->targetlist = targetlist;
	p->column = palloc0(sizeof(RehomeMappedColumn *) * Max(list_length(targetlist), 1));
	p->projection = ExecBuildProjectionInfo(share(p, mapping), p->econtext, p->result,
											NULL, mapping->source_desc);
	return p;
}

/*
 * rehome_projector_full projects to whole rows of the target.  Stored
 * generated columns come out null and are for the loader to compute.
 */
RehomeProjector *
rehome_projector_full(RehomeMapping *mapping, Relation target)
{
	TupleDesc	desc = RelationGetDescr(target);
	List	   *targetlist = NIL;
	RehomeProjector *p;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Expr	   *expr = NULL;

		for (int c = 0; c < mapping->ncolumns && !att->attisdropped; c++)
			if (mapping->columns[c].attnum == att->attnum)
				expr = mapping->columns[c].expr;
		if (expr == NULL && !att->attisdropped && att->attgenerated == '\0')
		{
			expr = (Expr *) build_column_default(target, att->attnum);
			if (expr != NULL)
				expr = expression_planner(expr);
		}
		if (expr == NULL)
			expr = att->attisdropped ?
				(Expr *) makeNullConst(INT4OID, -1, InvalidOid) :
				(Expr *) makeNullConst(att->atttypid, att->atttypmod, att->attcollation);
		targetlist = add_entry(targetlist, expr);
	}
	p = make_projector(mapping, targetlist, desc);
	for (int c = 0; c < mapping->ncolumns; c++)
		p->column[mapping->columns[c].attnum - 1] = &mapping->columns[c];
	return p;
}

/*
 * rehome_projector_mapped projects to the mapped columns.
 */
RehomeProjector *
rehome_projector_mapped(RehomeMapping *mapping)
{
	List	   *targetlist = NIL;
	RehomeProjector *p;

	for (int c = 0; c < mapping->ncolumns; c++)
		targetlist = add_entry(targetlist, mapping->columns[c].expr);
	p = make_projector(mapping, targetlist, mapping->mapped_desc);
	for (int c = 0; c < mapping->ncolumns; c++)
		p->column[c] = &mapping->columns[c];
	return p;
}

/*
 * rehome_projector_key projects to the key, from source rows in which only
 * the source's key columns need be filled.
 */
RehomeProjector *
rehome_projector_key(RehomeMapping *mapping)
{
	List	   *targetlist = NIL;

	for (int k = 0; k < mapping->nkey; k++)
		targetlist = add_entry(targetlist, mapping->key[k]->expr);
	return make_projector(mapping, targetlist, mapping->key_desc);
}

/*
 * rehome_source_row returns the list for a SELECT that gives rows shaped like
 * the source relation, as projector->source has them: dropped columns too have
 * their places.  Those that are not needed (NIL: all are) are null.
 */
char *
rehome_source_row(RehomeMapping *mapping, List *needed)
{
	TupleDesc	desc = mapping->source_desc;
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		appendStringInfoString(&sql, i > 0 ? ", " : "");
		if (att->attisdropped)
			appendStringInfoString(&sql, "NULL::integer");
		else if (needed == NIL || rehome_name_listed(needed, NameStr(att->attname)))
			appendStringInfoString(&sql, quote_identifier(NameStr(att->attname)));
		else
			appendStringInfo(&sql, "NULL::%s", format_type_be_qualified(att->atttypid));
	}
	return sql.data;
}

/*
 * rehome_project projects the row in projector->source.  The result is valid
 * until the next call, and as long as per-tuple memory.
 */
TupleTableSlot *
rehome_project(RehomeProjector *projector)
{
	ExecClearTuple(projector->result);
	if (projector->share != NULL)
	{
		ExecClearTuple(projector->shared);
		(void) ExecProject(projector->share);
	}
	return ExecProject(projector->projection);
}

/*
 * rehome_project_complete tells whether no column that may not be null is,
 * in the row just projected.
 */
bool
rehome_project_complete(RehomeProjector *projector)
{
	for (int i = 0; i < projector->result->tts_tupleDescriptor->natts; i++)
		if (projector->result->tts_isnull[i] && projector->column[i] != NULL &&
			projector->column[i]->notnull && projector->column[i]->on_error != 'f')
			return false;
	return true;
}

void
rehome_projector_end(RehomeProjector *projector)
{
	ExecDropSingleTupleTableSlot(projector->source);
	ExecDropSingleTupleTableSlot(projector->result);
	if (projector->shared != NULL)
		ExecDropSingleTupleTableSlot(projector->shared);
	FreeExecutorState(projector->estate);
	pfree(projector);
}
