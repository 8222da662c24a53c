"""What the claims of the shipped cases read, stated by hand: an independent word on what the lock has to cover.

Of each claim the experiments, each with the outcomes that are read, then (behind a bar) the control arms of those that it lists; and
the supernodes that these hold, inject, follow or watch. `<` marks the outcome by which development prompts choose a strength, a
depth or a site, `?` the only one by which prompts are known on which a watched supernode has no members; `dose` that the dose curve is read; `sites` that the position control stands at sites.
"""

READINGS = {
    "multi_hop": """
        multihop-1: graph path_share source_share | match; swap_cut <donor_top1 | match; bridge
        multihop-2: graph shortcut path_share | match; inhibit_bridge <answer_probability advantage; bridge
        multihop-3: inhibit_relation <answer_probability level_top1:place | match position; relation
        multihop-4: inhibit_relation_word <answer_probability activation:relation activation:bridge | match position; relation_word relation bridge
        multihop-5: inhibit_bridge <answer_probability others_probability activation:relation | match position; inhibit_bridge_cut <answer_probability | match position; bridge relation
        multihop-6: inhibit_city <answer_probability activation:bridge | match position; city bridge
        multihop-7: swap <donor_top1 | match donor position direction; swap_cut <donor_top1 | match donor position; bridge
        multihop-8: swap_foreign <donor_top1 | match donor position; swap_foreign_cut <donor_top1 | match donor position; bridge container
        multihop-9: signs agreement | shuffle; inhibit_city <answer_probability activation:bridge activation:say_answer activation:relation answer_logit; inhibit_relation_word <answer_probability activation:relation activation:bridge activation:say_answer answer_logit; inhibit_bridge <answer_probability activation:relation activation:say_answer answer_logit; inhibit_relation <answer_probability activation:bridge activation:say_answer answer_logit; city relation_word bridge relation say_answer
    """,
    "addition": """
        add-1: classes class_writing lookup_present | shuffle;
        add-2: classes decimal_share | shuffle;
        add-3: dissociation interaction:ones_right,near_right; inhibit_ones_a <ones_right near_right | match; inhibit_range_a <near_right ones_right | match; ones_a range_a
        add-4: ablate_lookup activation:sum ?answer_top1 | match position; lookup sum
        add-5: inhibit_ones_a <ones_right near_right | match position; ones_a
        add-6: inhibit_ones_b <ones_right near_right | match position; ones_b
        add-7: inhibit_range_a <near_right activation:lookup ones_right | match position; range_a lookup
        add-8: inhibit_lookup <width | match position; smear difference:width; inhibit_sum <width | match; lookup sum
        add-9: wiring auc_virtual | shuffle; lookup sum
        add-10: graph path_share | match; lookup
        add-11: reuse_sum_of shared_activity shared_writing | donor random; reuse_fruit shared_activity shared_writing | donor random; lookup
        add-12: inhibit_lookup_sum_of <answer_top1 | match position; swap_sum_of <donor_top1 | match donor position direction; swap_fruit <donor_top1 | match donor position direction; lookup
        add-13: swap_ones <ones_swapped | match donor position direction; swap_ones_iterative <ones_swapped | match donor position direction; lookup_ones
        add-14: reuse_brackets shared_activity shared_writing | donor random; swap_brackets <donor_top1 | match donor position direction; swap_kind <donor_top1 | match donor position direction; lookup_inside kind
        add-15:
        add-16: classes label_wrong class_share;
    """,
    "multilingual": """
        multi-1: core shared | match; operation operand say
        multi-2: operation_swap <level_top1:expected_operation kept:concept+language | match position; operand_swap <level_top1:expected_operand kept:relation+language | match position; language_swap <level_top1:expected_language kept:concept+relation | match position; operation operand language
        multi-3: operation_swap_whole <level_top1:expected_operation | match donor position; operation_swap <level_top1:expected_operation level_probability:expected_operation answer_probability dose; crossover crossover_cv2; operation
        multi-4: operand_swap <level_top1:expected_operand | match donor position; operand
        multi-5: language_swap <level_top1:expected_language | match donor position; language
        multi-6: english_operation difference:level_top1:expected_operation; operation_swap <level_top1:expected_operation; operation_swap_native <level_top1:expected_operation; english_operand difference:level_top1:expected_operand; operand_swap <level_top1:expected_operand; operand_swap_native <level_top1:expected_operand; operation operand
        multi-7: default_language default_written:en | match; say_together
        multi-8: overlap overlap_profile overlap:2 | shuffle;
        multi-9: scale overlap:2; overlap overlap:2 | shuffle;
        multi-10: inhibit_operation_live lost:say | match; frozen_operation difference:lost:say; inhibit_operation lost:say; frozen_operand difference:lost:say; inhibit_operand lost:say; inhibit_operand_live lost:say; operation operand say
        multi-11: operations closeness | match; operation
        multi-12: inhibit_operation_live kept:scale+language | match position; operation
    """,
    "rhyme_planning": """
        poem-1: census_plan written sites | position shuffle random; census probe | shuffle; plan word
        poem-2: census candidates | shuffle random; word
        poem-3: census ordinary | shuffle random; word
        poem-4: suppress <line_ends_rhyme line_ends_own | match position; resample_forced line_ends_own; choice
        poem-5: inject_other <line_ends_donor line_starts_donor | match donor position; plan
        poem-6: inject_rhyme <line_ends_donor sites | match donor position; inject_other <line_ends_donor | match donor position; plan
        poem-7: inject_rhyme <line_ends_donor sites | match position; resample line_ends_own; resample_forced line_ends_own; plan
        poem-8: backward <answer_log_odds answer_moves ending_log_odds | match donor position; plan
        poem-9: inhibit_rhyme <line_ends_family | match position; rhyme
        poem-10: graph path_share | match; inhibit_last <answer_probability | match position; resample_forced line_ends_own; plan
    """,
}
