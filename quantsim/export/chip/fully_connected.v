// One fully connected layer of a chip folder against its test vectors: every integer must match.
//
//   iverilog -g2005-sv -o layer fully_connected.v && (cd FOLDER && vvp /path/to/layer)
//
// The parameters below are those of one layer; `quantsim chip test-bench` fills them in from the manifest.

`timescale 1ns / 1ps

// A sum of products on the grid of the result: clamp(round(sum * multiplier / 2^shift) + ZERO_POINT, LOW, HIGH),
// rounded half away from zero in 64 bits.
module requantize #(
    parameter integer ZERO_POINT = 0,
    parameter integer LOW = -128,
    parameter integer HIGH = 127
) (
    input wire signed [31:0] sum,
    input wire signed [31:0] multiplier,
    input wire [7:0] shift,
    output wire signed [31:0] code
);
    // Through wires of 64 bits, so that no product or sum is cut to the width of its operands.
    wire signed [63:0] wide_sum = sum;
    wire signed [63:0] wide_multiplier = multiplier;
    wire signed [63:0] product = wide_sum * wide_multiplier;
    wire signed [63:0] half = 64'sd1 <<< (shift - 8'd1);
    wire signed [63:0] below_zero = product[63] ? 64'sd1 : 64'sd0;
    wire signed [63:0] rounded = (product + half - below_zero) >>> shift;
    wire signed [63:0] moved = rounded + ZERO_POINT;
    assign code = moved < LOW ? LOW : moved > HIGH ? HIGH : moved[31:0];
endmodule

module fully_connected_test;
    // What the manifest says of the layer.
    // quantsim: parameters begin
    localparam integer VECTORS = 2;           // rows of the input: words begin anew in each
    localparam integer INPUTS = 4;            // weights of an output
    localparam integer OUTPUTS = 3;
    localparam integer TILE_ROWS = 16;        // outputs of a tile
    localparam integer COLUMNS = 16;          // codes in a word
    localparam integer OUTPUTS_FIRST = 0;     // 1: the next tile has the next outputs, 0: the next inputs
    localparam integer FIRST_CODE_HIGH = 0;   // 1: the first code of a word is in its most significant bits
    localparam integer WEIGHT_BITS = 8;
    localparam integer INPUT_BITS = 8;
    localparam integer INPUT_SIGNED = 0;
    localparam integer OUTPUT_BITS = 8;
    localparam integer OUTPUT_SIGNED = 1;
    localparam integer BIAS_BITS = 32;
    localparam integer REQUANTIZES = 1;       // 0: the layer's results are its sums
    localparam integer PER_OUTPUT = 1;        // 1: a multiplier for each output, 0: one for all
    localparam integer MULTIPLIER_BITS = 32;
    localparam integer SHIFT_BITS = 8;
    localparam integer ZERO_POINT = 0;
    localparam integer LOW = -128;
    localparam integer HIGH = 127;
    `define WEIGHT_FILE "mem/0000_0.weight.hex"
    `define BIAS_FILE "mem/0000_0.bias.hex"
    `define MULTIPLIER_FILE "mem/0000_0.multiplier.hex"
    `define SHIFT_FILE "mem/0000_0.shift.hex"
    `define INPUT_FILE "vectors/0000_x.hex"
    `define OUTPUT_FILE "vectors/0001_y.hex"
    // quantsim: parameters end

    localparam integer INPUT_WORDS = (INPUTS + COLUMNS - 1) / COLUMNS;
    localparam integer OUTPUT_WORDS = (OUTPUTS + COLUMNS - 1) / COLUMNS;
    localparam integer TILES = (OUTPUTS + TILE_ROWS - 1) / TILE_ROWS;
    localparam integer MULTIPLIERS = PER_OUTPUT ? OUTPUTS : 1;

    reg [COLUMNS*WEIGHT_BITS-1:0] weight[0:TILES*INPUT_WORDS*TILE_ROWS-1];
    reg [BIAS_BITS-1:0] bias[0:OUTPUTS-1];
    reg [MULTIPLIER_BITS-1:0] multipliers[0:MULTIPLIERS-1];
    reg [SHIFT_BITS-1:0] shifts[0:MULTIPLIERS-1];
    reg [COLUMNS*INPUT_BITS-1:0] inputs[0:VECTORS*INPUT_WORDS-1];
    reg [COLUMNS*OUTPUT_BITS-1:0] expected[0:VECTORS*OUTPUT_WORDS-1];

    // A processing element: one output, one product a step.
    reg signed [31:0] sum;
    reg signed [31:0] multiplier;
    reg [7:0] shift;
    wire signed [31:0] code;
    requantize #(.ZERO_POINT(ZERO_POINT), .LOW(LOW), .HIGH(HIGH)) stage (sum, multiplier, shift, code);

    // Which bits of a word are the code of a column.
    function integer lane(input integer column);
        lane = FIRST_CODE_HIGH ? COLUMNS - 1 - column % COLUMNS : column % COLUMNS;
    endfunction

    // The word of a row of weights that holds an input.
    function integer weight_word(input integer row, input integer column);
        integer tile;
        begin
            tile = OUTPUTS_FIRST ? column / COLUMNS * TILES + row / TILE_ROWS
                                 : row / TILE_ROWS * INPUT_WORDS + column / COLUMNS;
            weight_word = tile * TILE_ROWS + row % TILE_ROWS;
        end
    endfunction

    integer vector, row, column, mismatches;
    reg signed [31:0] input_code, result, wanted;
    reg signed [WEIGHT_BITS-1:0] weight_code;
    reg [INPUT_BITS-1:0] input_bits;
    reg [OUTPUT_BITS-1:0] output_bits;
    reg signed [BIAS_BITS-1:0] bias_code;
    reg signed [MULTIPLIER_BITS-1:0] multiplier_code;

    initial begin
        $readmemh(`WEIGHT_FILE, weight);
        $readmemh(`BIAS_FILE, bias);
        $readmemh(`INPUT_FILE, inputs);
        $readmemh(`OUTPUT_FILE, expected);
        if (REQUANTIZES) begin
            $readmemh(`MULTIPLIER_FILE, multipliers);
            $readmemh(`SHIFT_FILE, shifts);
        end
        mismatches = 0;
        for (vector = 0; vector < VECTORS; vector = vector + 1) begin
            for (row = 0; row < OUTPUTS; row = row + 1) begin
                bias_code = bias[row];
                sum = bias_code;
                for (column = 0; column < INPUTS; column = column + 1) begin
                    weight_code = weight[weight_word(row, column)][lane(column)*WEIGHT_BITS +: WEIGHT_BITS];
                    input_bits = inputs[vector*INPUT_WORDS + column/COLUMNS][lane(column)*INPUT_BITS +: INPUT_BITS];
                    input_code = INPUT_SIGNED ? {{32{input_bits[INPUT_BITS-1]}}, input_bits} : {32'd0, input_bits};
                    sum = sum + weight_code * input_code;
                end
                multiplier_code = multipliers[PER_OUTPUT ? row : 0];
                multiplier = multiplier_code;
                shift = shifts[PER_OUTPUT ? row : 0];
                #1;
                result = REQUANTIZES ? code : sum;
                output_bits = expected[vector*OUTPUT_WORDS + row/COLUMNS][lane(row)*OUTPUT_BITS +: OUTPUT_BITS];
                wanted = OUTPUT_SIGNED ? {{32{output_bits[OUTPUT_BITS-1]}}, output_bits} : {32'd0, output_bits};
                if (result !== wanted) begin
                    mismatches = mismatches + 1;
                    if (mismatches <= 10)
                        $display("vector %0d, output %0d: got %0d, expected %0d", vector, row, result, wanted);
                end
            end
        end
        if (mismatches == 0) $display("PASS: %0d integers match", VECTORS * OUTPUTS);
        else $display("FAIL: %0d of %0d integers differ", mismatches, VECTORS * OUTPUTS);
        $finish;
    end
endmodule
